"""Checkpoints as somebody might have made them: with other tensors or another header."""

import hashlib
import json

from safetensors import safe_open
from safetensors.torch import save_file

ZEROS = "0" * 64


def forge_file(path, *, tensors=lambda tensors: tensors, header=lambda header: header):
    """Write a checkpoint anew as if it had been saved so: what is changed, its digest fits."""
    with safe_open(path, "pt") as file:
        held = {key: file.get_tensor(key).clone() for key in file.keys()}  # noqa: SIM118
        text = header(json.loads(file.metadata()["attnreid_header"]))
    text = text if isinstance(text, str) else json.dumps(text)
    save_file(tensors(held), path, {"attnreid_header": text, "attnreid_sha256": ZEROS})
    seal(path)


def seal(path):
    """Put the digest of a file, whose place holds zeros, into it."""
    content = path.read_bytes()
    mark = b'"attnreid_sha256":"'
    before, _, after = content.partition(mark + ZEROS.encode())
    path.write_bytes(before + mark + hashlib.sha256(content).hexdigest().encode() + after)


def as_first_format(path):
    """Write a checkpoint anew as the first format had it: no digest, no description, a call under other names."""

    def with_old_names(one):
        call = one["call"]
        old = call and {"on": call["on"], "call": call["name"], "options": call["options"]}
        return {"recipe": old, "sites": one["sites"]}

    with safe_open(path, "pt") as file:
        held = {key: file.get_tensor(key).clone() for key in file.keys()}  # noqa: SIM118
        header = json.loads(file.metadata()["attnreid_header"])
    attachments = [with_old_names(one) for one in header["attachments"]]
    old = {"format": 1, "attnreid": "0.1.0", "attachments": attachments, "versions": header["versions"]}
    save_file(held, path, {"format": "pt", "attnreid": json.dumps(old)})
