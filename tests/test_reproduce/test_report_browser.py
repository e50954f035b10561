"""Open report pages in a browser. Needs Chromium and ``pip install playwright``."""
import shutil
from xml.etree import ElementTree

import pytest
from report_tables import begin, fail, finish, half_done, make_recipe, make_runs, report, training, write_config

sync_api = pytest.importorskip('playwright.sync_api', reason='playwright is not installed')
CHROMIUM = next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), None)
if CHROMIUM is None:
    pytest.skip('Chromium is not installed', allow_module_level=True)


@pytest.fixture(scope='module')
def browser():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=['--no-sandbox'])
        yield browser
        browser.close()


@pytest.fixture(scope='module')
def pages(tmp_path_factory):
    """Reports of all kinds of tables."""
    folders = {name: tmp_path_factory.mktemp(name) for name in ('half', 'wide', 'lines', 'nothing')}
    recipe, runs, work_dir = half_done(folders['half'])
    fail(runs['deep'][0], ['<b>' + 'x' * 500])
    begin(runs['small_at-big'][1], training([50, 60]))
    report(recipe, runs, work_dir)
    # Eight columns, with long names that cannot be wrapped.
    cells = [dict(row='WRN-16-1 from WRN-16-2' if row else 'r' * 90, column=f'{"column" * 9}{column}', published=8.77,
                  config=write_config(folders['wide'] / 'configs', f'{"long" * 20}_{row}_{column}'))
             for row in range(2) for column in range(8)]
    recipe = make_recipe(cells, title='A ' + 't' * 120, note='n' * 300 + '<script>document.title = 1</script>')
    runs = make_runs(recipe, folders['wide'] / 'table', scale=0.5)
    for group in runs.values():
        finish(group[0], 90.5, hardware='h' * 100)
        fail(group[1], ['l' * 400])
    report(recipe, runs, folders['wide'] / 'table')
    recipe = make_recipe([dict(row=f'row {index}', column='error', config=write_config(
        folders['lines'] / 'configs', f'config_{index}')) for index in range(9)])
    runs = make_runs(recipe, folders['lines'] / 'table')
    for group in list(runs.values())[:7]:
        finish(group[0], 90)
    report(recipe, runs, folders['lines'] / 'table')
    recipe = make_recipe([dict(row='one', column='error', config=write_config(folders['nothing'] / 'configs', 'one'))])
    report(recipe, make_runs(recipe, folders['nothing'] / 'table'), folders['nothing'] / 'table')
    return {name: folder / 'table' / 'report.html' for name, folder in folders.items()}


@pytest.mark.parametrize('scheme', ['light', 'dark'])
@pytest.mark.parametrize('width, height', [(390, 844), (1280, 900)], ids=['phone', 'desktop'])
@pytest.mark.parametrize('name', ['half', 'wide', 'lines', 'nothing'])
def test_the_page_opens_offline_without_errors_or_horizontal_scrolling(name, width, height, scheme, pages, browser):
    context = browser.new_context(viewport=dict(width=width, height=height), color_scheme=scheme)
    context.set_offline(True)
    page = context.new_page()
    requests, errors = [], []
    page.on('request', lambda request: requests.append(request.url))
    page.on('console', lambda message: errors.append(message.text))
    page.on('pageerror', lambda error: errors.append(str(error)))
    page.goto(pages[name].as_uri())
    assert page.title() == page.locator('h1').inner_text()
    for _ in range(2):
        # As opened, then with all details expanded.
        assert page.evaluate('document.documentElement.scrollWidth') <= width
        # Only scrolling boxes may extend beyond the window.
        assert page.evaluate("""() => [...document.querySelectorAll('body *')].filter(element =>
            element.getBoundingClientRect().right > innerWidth + 1 && !element.closest('.scroll, pre, caption, thead')
        ).map(element => element.outerHTML.slice(0, 200))""") == []
        page.evaluate("document.querySelectorAll('details').forEach(details => { details.open = true })")
    # Text in charts is as large as a caption.
    sizes = page.evaluate("""() => [...document.querySelectorAll('svg.chart text')].map(text =>
        parseFloat(getComputedStyle(text).fontSize) * text.closest('svg').getBoundingClientRect().width / 360)""")
    assert all(9 <= size <= 15 for size in sizes) and bool(sizes) == (name != 'nothing')
    ground = page.evaluate('getComputedStyle(document.body).backgroundColor')
    assert (sum(map(int, ground[4:-1].split(','))) < 200) == (scheme == 'dark')
    assert [url for url in requests if not url.startswith('data:')] == [pages[name].as_uri()] and errors == []
    context.close()


def test_details_open_with_the_keyboard(pages, browser):
    page = browser.new_page()
    page.goto(pages['half'].as_uri())
    summary = page.locator('.provenance summary').first
    summary.focus()
    assert not page.locator('.provenance dl').first.is_visible()
    page.keyboard.press('Enter')
    assert page.locator('.provenance dl').first.is_visible()
    page.close()


def test_the_picture_of_the_markdown_report_opens(pages, browser):
    picture = pages['half'].with_name('curves-1.svg')
    ElementTree.parse(picture)
    page = browser.new_page()
    errors = []
    page.on('console', lambda message: errors.append(message.text))
    page.goto(picture.as_uri())
    lines = page.evaluate("[...document.querySelectorAll('.median')].map(line => getComputedStyle(line).stroke)")
    assert errors == [] and len(set(lines)) == 3 and 'none' not in lines
    page.close()
