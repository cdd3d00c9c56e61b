"""`data render`: pedestrians in the Market-1501 layout."""

import dataclasses

from reference_pipelines.commands.options import RenderOptions
from reference_pipelines.errors import UserError
from reference_pipelines.rendering import render_market


def run(options: RenderOptions) -> None:
    """Render pedestrians."""
    try:
        print(render_market(**{field.name: getattr(options, field.name) for field in dataclasses.fields(options)}))
    except (ValueError, OSError, RuntimeError) as error:
        said = str(error).replace("render_market:", "data render:").replace(" image_size ", " --image-size ")
        raise UserError(said.replace("workers=0", "--workers 0")) from None
