"""Attention in a backbone: find the sites, put it in, take it out again."""

from attnreid.backbones.attach import Attachment, attach, attachments
from attnreid.backbones.presets import attach_apnet, attach_mla, set_last_stride
from attnreid.backbones.sites import Site, find_sites

__all__ = [
    "Attachment",
    "Site",
    "attach",
    "attach_apnet",
    "attach_mla",
    "attachments",
    "find_sites",
    "set_last_stride",
]
