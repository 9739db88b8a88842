"The desk as a reader meets it: served by Voila, a study graded, a place corrected, the coordinates saved."
import socket,time,urllib.request
import pandas as pd
import pytest
from browser import browser_test,chromium
from lumbar_nbdev.app import start_app
from lumbar_nbdev.cohort import COORDINATE_COLUMNS
from lumbar_nbdev.phantom import phantom_cohort

def free_port():
    with socket.socket() as s: s.bind(('127.0.0.1',0)); return s.getsockname()[1]

@pytest.fixture(scope='module')
def served(tmp_path_factory):
    "The page's address and where it saves."
    here,port = tmp_path_factory.mktemp('desk'), free_port()
    saved = here/'mine.csv'
    server = start_app(here, phantom_cohort(6, seed=7)/'rsna', port, 'secret', saved)
    for _ in range(200):
        try: urllib.request.urlopen(f'http://127.0.0.1:{port}/static/none', timeout=1)
        except urllib.error.HTTPError: break
        except OSError: time.sleep(.1)
        assert server.poll() is None
    yield f'http://127.0.0.1:{port}/', saved
    server.terminate(); server.wait(10)

def grade_of(page, place): return page.locator(f'button[title^="{place}"]').inner_text()

@browser_test
def test_grade_correct_and_save(chromium, served):
    address,saved = served
    page = chromium.new_page(viewport=dict(width=1400, height=1100)); asked,wrong = [],[]
    page.on('request', lambda r: asked.append(r.url)); page.on('pageerror', lambda e: wrong.append(str(e)))
    page.goto(f'{address}?token=secret', timeout=90_000)
    page.wait_for_function("document.querySelectorAll('canvas[data-drawn]').length==3", timeout=90_000)
    page.get_by_role('button', name='save coordinates').click()
    page.wait_for_selector('text=nothing to save')
    page.get_by_role('button', name='grade this study').click()
    page.wait_for_selector('text=1 graded', timeout=180_000)
    page.locator('button[title^="canal at L4/L5"]').click()
    page.wait_for_selector('text=from the pictures'); page.wait_for_selector('.panels svg')
    page.get_by_role('button', name='save coordinates').click(); page.wait_for_selector('text=saved:')
    before = pd.read_csv(saved)
    page.get_by_role('button', name='move a place').click()
    box = page.locator('canvas').nth(1).bounding_box()
    page.mouse.move(box['x']+box['width']/2, box['y']+box['height']/2); page.mouse.wheel(0, 120)
    page.mouse.click(box['x']+.7*box['width'], box['y']+.3*box['height'])
    page.wait_for_selector('text=moved', timeout=30_000)
    page.get_by_role('button', name='save coordinates').click(); page.wait_for_selector('text=saved:')
    after = pd.read_csv(saved)
    assert list(after)==list(COORDINATE_COLUMNS) and len(before)==25
    key = ['condition','level']
    both = before.merge(after, on=key, suffixes=('','_after'))
    moved = both[(both.x!=both.x_after)|(both.y!=both.y_after)]
    assert moved[key].to_numpy().tolist()==[['Spinal Canal Stenosis','L4/L5']]
    page.get_by_role('button', name='names up').click(); page.wait_for_selector('text=all levels named one up', timeout=30_000)
    assert not wrong and not [u for u in asked if not u.startswith((address,'data:','blob:'))]
    page.close()

@browser_test
def test_grade_all_shows_how_far_it_is(chromium, served):
    page = chromium.new_page(viewport=dict(width=1400, height=1100))
    page.goto(f'{served[0]}?token=secret', timeout=90_000)
    page.wait_for_function("document.querySelectorAll('canvas[data-drawn]').length==3", timeout=90_000)
    page.get_by_role('button', name='grade all').click()
    page.wait_for_selector('text=/study \\d+: [23] of 6/', timeout=180_000)
    page.wait_for_selector('text=6 graded', timeout=180_000)
    page.close()
