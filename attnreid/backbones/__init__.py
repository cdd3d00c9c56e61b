"""Attention in a backbone: find the sites, put it in, take it out again."""

from attnreid.backbones.attach import Attachment, attach, attachments
from attnreid.backbones.presets import attach_apnet, attach_mla, attach_pyramid, attach_se
from attnreid.backbones.sites import Site, find_sites
from attnreid.backbones.strides import set_last_stride

__all__ = [
    "Attachment",
    "Site",
    "attach",
    "attach_apnet",
    "attach_mla",
    "attach_pyramid",
    "attach_se",
    "attachments",
    "find_sites",
    "set_last_stride",
]
