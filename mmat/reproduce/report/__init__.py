"""The report of a table of results, complete or not: Markdown, a self-contained HTML page, and CSV."""
from pathlib import Path
from typing import Dict, List

from mmengine.config import Config

from mmat.utils.files import write_atomic

from ..results import shared_batches_note, write_csv
from ..run import Run
from .charts import draw_curves_file
from .content import collect_content
from .html import render_html
from .maps import draw_maps
from .markdown import render_markdown, render_results

__all__ = ['results_table', 'write_report']


def write_report(name: str, recipe: Config, runs: Dict[str, List[Run]], work_dir: Path) -> List[Path]:
    """Write the report of a table from the files on disk, without training anything.

    Args:
        name (str): Name of the recipe, such as 'at_table1'.
        recipe (Config): From :func:`~mmat.reproduce.recipe.read_recipe`.
        runs (dict): From :func:`~mmat.reproduce.recipe.plan`.
        work_dir (Path): The table's folder.

    Returns:
        list[Path]: ``report.html``, which needs no other file; ``report.md``, with pictures beside it; and
        ``results.csv``. Each file is written atomically.
    """
    work_dir = Path(work_dir)
    content = collect_content(name, recipe, runs, work_dir)
    maps = draw_maps(content)
    page, text, numbers = (work_dir / file for file in ('report.html', 'report.md', 'results.csv'))
    for group in content.groups:
        # The Markdown report links to these pictures.
        if group.has_curves:
            write_atomic(work_dir / f'curves{group.suffix}.svg', draw_curves_file(group, content.measure).encode())
        if maps[group].png:
            write_atomic(work_dir / f'attention{group.suffix}.png', maps[group].png)
    write_csv(content.result_rows, numbers)
    write_atomic(text, render_markdown(content, maps).encode())
    write_atomic(page, render_html(content, maps).encode())
    return [page, text, numbers]


def results_table(name: str, recipe: Config, runs: Dict[str, List[Run]], work_dir: Path) -> str:
    """Return the table of numbers in Markdown, with a note on shared batches; arguments as in :func:`write_report`."""
    content = collect_content(name, recipe, runs, Path(work_dir))
    return '\n\n'.join(filter(None, [render_results(content), shared_batches_note(content.result_rows)]))
