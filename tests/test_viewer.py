"The viewer as a reader meets it: served by Voila, driven by mouse and keys in a headless Chromium."
import base64,importlib.util,io,os,re,shutil,socket,time,urllib.request
from pathlib import Path
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from browser import browser_test,chromium
from lumbar_nbdev.cohort import Cohort
from lumbar_nbdev.core import InputError
from lumbar_nbdev.app import serve_app,start_app
from lumbar_nbdev.exploration import Viewer,study_view
from lumbar_nbdev.phantom import phantom_cohort

DATA = Path(__file__).resolve().parents[2]/'shared'/'data'

def free_port():
    with socket.socket() as s: s.bind(('127.0.0.1',0)); return s.getsockname()[1]

@pytest.fixture(scope='module')
def folder(): return phantom_cohort(6, seed=7)/'rsna'

@pytest.fixture(scope='module')
def address(folder, tmp_path_factory):
    "The viewer's page, served as `lumbar app` serves it."
    here,port = tmp_path_factory.mktemp('app'), free_port()
    server = start_app(here, folder, port, 'secret')
    study = Cohort(folder).studies[0]; number = pd.read_csv(folder/'train.csv').study_id.tolist().index(study)+1
    series = pd.read_csv(folder/'train_series_descriptions.csv').query("study_id==@study and series_description=='Sagittal T2/STIR'").series_id.iloc[0]
    masks = f"{{{series}: read_image({str(folder.parent/f'spider/masks/{number}_t2.mha')!r}, 'sagittal')}}"
    text = (here/'app.ipynb').read_text() # the page is read when it is asked for: this one shows the viewer alone, with a mask
    viewer = lambda m: f'from lumbar_nbdev.exploration import Viewer\\nfrom lumbar_nbdev.volume import read_image\\nViewer({m[1]}, masks={masks})'
    (here/'app.ipynb').write_text(re.sub(r"ReadingDesk\((Cohort\('.*?'\)), save_to='.*?'\)", viewer, text))
    for _ in range(200):
        try: urllib.request.urlopen(f'http://127.0.0.1:{port}/static/none', timeout=1)
        except urllib.error.HTTPError: break
        except OSError: time.sleep(.1)
        assert server.poll() is None
    yield f'http://127.0.0.1:{port}/'
    server.terminate(); server.wait(10)

class Page:
    "The page of the viewer in a browser, with what it asked for and complained about."
    def __init__(self, chromium, address):
        self.page = chromium.new_page(viewport=dict(width=1400, height=950))
        self.asked,self.wrong = [],[]
        self.page.on('request', lambda r: self.asked.append(r.url))
        self.page.on('console', lambda m: self.wrong.append(m.text) if m.type=='error' else None)
        self.page.on('pageerror', lambda e: self.wrong.append(str(e)))
        self.page.goto(f'{address}?token=secret')
        self.page.wait_for_function("document.querySelectorAll('canvas[data-drawn]').length==3", timeout=30_000)

    def canvas(self, pane): return self.page.locator('.lumbar-pane canvas').nth(pane)
    def caption(self, pane): return self.page.locator('.lumbar-pane .caption').nth(pane).inner_text()
    def slice(self, pane): return int(re.search(r'slice (\d+) of', self.caption(pane))[1])
    def window(self, pane): return self.page.locator('.lumbar-pane .window').nth(pane).inner_text()
    def picture(self, pane): return self.canvas(pane).evaluate("c => c.toDataURL()")
    def pixels(self, pane):
        "The canvas as an array, (rows, columns, 4) uint8."
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(self.picture(pane).partition(',')[2]))).convert('RGBA'))
    def middle(self, pane): b = self.canvas(pane).bounding_box(); return b['x']+b['width']/2, b['y']+b['height']/2
    def until(self, what, seconds=5):
        end = time.monotonic()+seconds
        while not what():
            assert time.monotonic()<end, "nothing changed"
            self.page.wait_for_timeout(20)
    def shot(self, name):
        if os.environ.get('LUMBAR_SHOTS'): self.page.screenshot(path=Path(os.environ['LUMBAR_SHOTS'])/f'{name}.png')

@pytest.fixture(scope='module')
def page(chromium, address): return Page(chromium, address)

@browser_test
def test_opens_with_three_planes(page):
    page.shot('1-open')
    assert [page.caption(i).split(',')[0] for i in range(3)]==['Sagittal T1','Sagittal T2/STIR','Axial T2']
    assert [''.join(page.page.locator('.lumbar-pane .box').nth(i).locator('b').all_inner_texts()) for i in range(3)]==['HFAP','HFAP','APRL']
    for i in range(3): assert page.pixels(i)[...,:3].std()>15 # a picture, not a black field
    text = page.page.inner_text('body')
    assert 'cross-hair:' in text and 'L5/S1' in text and 'no medical device' in text

@browser_test
def test_wheel_slider_and_keys_turn_the_slices(page):
    for pane,turn in ((2, lambda: page.page.mouse.wheel(0,120)), (0, lambda: page.page.keyboard.press('ArrowDown'))):
        k,before = page.slice(pane),page.picture(pane)
        page.page.mouse.move(*page.middle(pane)); page.canvas(pane).focus(); turn()
        page.until(lambda: page.slice(pane)==k+1)
        assert page.picture(pane)!=before
    k = page.slice(1); knob = page.page.locator('.widget-slider').nth(1).locator('.noUi-handle')
    knob.focus(); page.page.keyboard.press('ArrowRight'); page.until(lambda: page.slice(1)==k+1)
    page.page.mouse.move(*page.middle(2))
    for _ in range(60): page.page.mouse.wheel(0,120)         # faster than Python answers: no turn is lost, the end is the end
    last = int(re.search(r'of (\d+)', page.caption(2))[1]); page.until(lambda: page.slice(2)==last)

@browser_test
def test_click_moves_the_other_planes(page, folder):
    "The slices shown after a click are those nearest to the clicked pixel, as the geometry says."
    cohort = Cohort(folder); view = study_view(cohort, cohort.studies[0])
    k = page.slice(1)-1; v = view.volumes[view.panes[1]]
    box = page.canvas(1).bounding_box(); scale = min(box['width']/(v.shape[2]*v.spacing[2]), box['height']/(v.shape[1]*v.spacing[1]))
    row,column = .3*v.shape[1], .55*v.shape[2]
    page.page.mouse.click(box['x']+box['width']/2+(column+.5-v.shape[2]/2)*scale*v.spacing[2], box['y']+box['height']/2+(row+.5-v.shape[1]/2)*scale*v.spacing[1])
    point = v.to_world([k,row,column])
    want = [view.volumes[i].nearest_slice(point)[0]+1 for i in view.panes]
    page.until(lambda: [page.slice(i) for i in range(3)]==want); page.shot('2-click')
    assert f"{abs(point[2]):.0f} mm {'HF'[int(point[2]<0)]}" in page.page.inner_text('body')

@browser_test
def test_drag_changes_the_window_and_double_click_undoes_it(page):
    first,before = page.window(1),page.pixels(1); x,y = page.middle(1)
    for button in ('left','right'):
        slices = [page.slice(i) for i in range(3)]
        page.page.mouse.move(x,y); page.page.mouse.down(button=button); page.page.mouse.move(x-80,y-40, steps=4); page.page.mouse.up(button=button)
        page.until(lambda: page.window(1)!=first)
        wide = lambda text: int(text.split()[1])
        assert wide(page.window(1))<wide(first) and (page.pixels(1)!=before).mean()>.05
        assert [page.slice(i) for i in range(3)]==slices     # a drag is not a click
        page.shot(f'3-window-{button}')
        page.page.mouse.dblclick(x,y); page.until(lambda: page.window(1)==first)

@browser_test
def test_zoom(page):
    before,pixels = page.picture(2),page.pixels(2); page.canvas(2).focus(); page.page.keyboard.press('+'); page.page.keyboard.press('+')
    assert (page.pixels(2)!=pixels).mean()>.1; page.shot('4-zoom')
    page.page.keyboard.press('0'); page.until(lambda: page.picture(2)==before)

@browser_test
@pytest.mark.parametrize('name', ['cross-hair','reference lines','places and grades','masks'])
def test_overlays_can_be_switched(page, name):
    before = [page.picture(i) for i in range(3)]; box = page.page.get_by_label(name)
    some = any if name in ('places and grades','masks') else all # not every slice shows a place or lies in the mask
    box.uncheck(); page.until(lambda: some(page.picture(i)!=b for i,b in zip(range(3),before))); page.shot(f'5-without-{name.replace(" ","-")}')
    box.check(); page.until(lambda: all(page.picture(i)==b for i,b in zip(range(3),before)))

@browser_test
def test_a_grade_leads_to_its_place(page, folder):
    cohort = Cohort(folder); view = study_view(cohort, cohort.studies[0])
    t = next(t for t in view.places.itertuples() if t.condition=='left_neural_foraminal_narrowing' and t.level=='l3_l4')
    page.page.locator('button[title^="left foramen at L3/L4"]').click()
    page.until(lambda: page.slice(0)==view.volumes[view.panes[0]].nearest_slice(np.array([t.wx,t.wy,t.wz]))[0]+1)
    assert 'left' in page.caption(0); page.shot('6-grade')

@browser_test
def test_another_study(page, folder):
    other = Cohort(folder).studies[1]
    before = page.picture(1); page.page.locator('select').first.select_option(str(other))
    page.until(lambda: page.canvas(1).get_attribute('data-drawn').startswith(f'{other}/')); page.shot('7-study')
    assert page.picture(1)!=before

@browser_test
def test_turning_is_quick(page):
    "From the turn of the wheel to the new picture."
    page.page.mouse.move(*page.middle(1)); page.canvas(1).focus(); page.page.keyboard.press('Home'); page.until(lambda: page.slice(1)==1)
    times = page.canvas(1).evaluate('''async c => { const times = [];
        for (let i = 0; i < 8; i++) { const before = c.dataset.drawn, start = performance.now(); c.dispatchEvent(new WheelEvent('wheel', {deltaY: 120, cancelable: true}));
            while (c.dataset.drawn == before) { await new Promise(r => setTimeout(r, 1)); if (performance.now()-start > 3000) break; } times.push(performance.now()-start); }
        return times; }''')
    print(f"\nfrom wheel to picture: {np.median(times):.0f} ms (median), {max(times):.0f} ms at worst")
    assert np.median(times)<300

@browser_test
def test_nothing_leaves_this_machine_and_nothing_complains(page, address):
    foreign = [u for u in page.asked if not u.startswith((address,'data:','blob:'))]
    assert len(page.asked)>10 and not foreign and not page.wrong

@browser_test
def test_the_token_is_needed(address):
    for token in ('', '?token=wrong'):
        with urllib.request.urlopen(address+token) as r: assert '/login' in r.url and 'Lumbar viewer' not in r.read().decode()

def test_port_taken(folder):
    with socket.socket() as s:
        s.bind(('127.0.0.1',0)); s.listen()
        with pytest.raises(InputError, match='--port'): serve_app(folder, s.getsockname()[1])

def test_without_voila(folder, monkeypatch):
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
    with pytest.raises(InputError, match='pip install voila'): serve_app(folder)

@pytest.mark.skipif(not DATA.exists(), reason="no real images beside the project (../shared/data)")
def test_real_study_without_t1_and_labels():
    cohort = Cohort(DATA/'rsna_like'); view = study_view(cohort, cohort.studies[0])
    assert 'no Sagittal T1' in view.scene(0)['empty'] and view.slice_at(0)==(None, np.inf)
    view.click(1, 50, 60); scenes = [view.scene(i) for i in (1,2)]
    assert scenes[0]['letters']==['H','F','A','P'] and scenes[1]['letters']==['A','P','R','L'] and not scenes[0]['points']

def test_a_study_with_little_to_show(folder, tmp_path):
    "A missing series leaves an empty pane, an unreadable one a sentence; without labels there are no marks."
    root = shutil.copytree(folder, tmp_path/'rsna')
    table = pd.read_csv(root/'train_series_descriptions.csv'); study = int(table.study_id.iloc[0]); own = table[table.study_id==study]
    kind = own.drop_duplicates('series_description').set_index('series_description').series_id
    table[table.series_id!=kind['Sagittal T1']].to_csv(root/'train_series_descriptions.csv', index=False)
    for s in own.series_id[own.series_description=='Axial T2']:
        for f in (root/f'train_images/{study}/{s}').iterdir(): f.write_bytes(b'nothing')
    view = study_view(Cohort(root, 'train'), study)
    assert 'no Sagittal T1' in view.scene(0)['empty'] and view.scene(1)['points'] and 'no Axial T2' in view.scene(2)['empty']
    assert any(str(kind['Axial T2']) in n and 'skipped' in n for n in view.notes)
    shown = Viewer(Cohort(root, 'train'), study=study); shown.answer(2, dict(click=[1,1])); shown.answer(1, dict(scroll=1))
    assert 'skipped' in shown.status.value and shown.slices[0].disabled
