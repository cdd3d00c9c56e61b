"""The attention pyramid: the same attention on the whole map, then on its halves, then on its quarters.

From "Person Re-identification via Attention Pyramid" (APNet), section III-A, its split-attend-merge-stack
principle. A plan says what each level splits (plain data, made and checked by `plan_pyramid`);
`AttentionPyramid` walks it.
"""

from attnreid.pyramid.module import AttentionPyramid, Order
from attnreid.pyramid.plan import RADIX, LevelPlan, plan_pyramid

__all__ = ["RADIX", "AttentionPyramid", "LevelPlan", "Order", "plan_pyramid"]
