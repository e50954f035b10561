"""The report of a table, whatever is done of it so far: Markdown, a page in one file, and the numbers as CSV."""
from pathlib import Path
from typing import Dict, List

from mmengine.config import Config

from mmat.utils.files import write_atomic

from ..results import shared_batches_note, write_csv
from ..run import Run
from .charts import draw_file
from .content import gather
from .html import render_html
from .maps import draw_maps
from .markdown import render_markdown, render_results

__all__ = ['results_table', 'write_report']


def write_report(name: str, recipe: Config, runs: Dict[str, List[Run]], work_dir: Path) -> List[Path]:
    """Write what is known of a table, from what lies on disk; nothing is trained.

    Args:
        name (str): Name of the recipe, such as 'at_table1'.
        recipe (Config): As :func:`~mmat.reproduce.recipe.read_recipe` gives it.
        runs (dict): As :func:`~mmat.reproduce.recipe.plan` gives them.
        work_dir (Path): The table's folder.

    Returns:
        list[Path]: ``report.html``, which needs no other file; ``report.md``, with pictures beside it; and
        ``results.csv``. Each is whole, or as it was before.
    """
    work_dir = Path(work_dir)
    content = gather(name, recipe, runs, work_dir)
    maps = draw_maps(content)
    page, text, numbers = (work_dir / file for file in ('report.html', 'report.md', 'results.csv'))
    for group in content.groups:
        # Those that the Markdown shows.
        if group.has_curves:
            write_atomic(work_dir / f'curves{group.suffix}.svg', draw_file(group, content.measure).encode())
        if maps[group].png:
            write_atomic(work_dir / f'attention{group.suffix}.png', maps[group].png)
    write_csv(content.measured, numbers)
    write_atomic(text, render_markdown(content, maps).encode())
    write_atomic(page, render_html(content, maps).encode())
    return [page, text, numbers]


def results_table(name: str, recipe: Config, runs: Dict[str, List[Run]], work_dir: Path) -> str:
    """The numbers of a report alone, in Markdown, and what seeds shared; arguments as of :func:`write_report`."""
    content = gather(name, recipe, runs, Path(work_dir))
    return '\n\n'.join(filter(None, [render_results(content), shared_batches_note(content.measured)]))
