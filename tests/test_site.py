"The docs site as a reader walks it, built and served without a network: every link, every picture, search, both themes, a phone."
import functools,subprocess,sys,threading
from http.server import SimpleHTTPRequestHandler,ThreadingHTTPServer
from pathlib import Path
import pytest
from browser import browser_test,chromium

ROOT = Path(__file__).resolve().parent.parent
alone = ['unshare','-rn'] if subprocess.run(['unshare','-rn','true'], capture_output=True).returncode==0 else []
SEEN = '''() => ({
  links: [...document.querySelectorAll('a[href]')].map(a => a.href), ids: [...document.querySelectorAll('[id]')].map(e => e.id),
  pictures: [...document.images].map(i => ({src: i.src.slice(0,80), alt: i.alt, loaded: i.complete && i.naturalWidth>0})),
  headings: [...document.querySelectorAll('main h1,main h2,main h3,main h4,main h5,main h6')].map(h => +h.tagName[1]),
  width: document.documentElement.scrollWidth, language: document.documentElement.lang})'''

CONTRAST = '''() => {
  const light = c => c.match(/[0-9.]+/g).slice(0,3).reduce((a,b) => a + +b, 0)/3, box = document.querySelector('.smalldocs-search-results');
  return Math.min(...[...box.querySelectorAll('a *')].filter(e => e.tagName!='MARK' && e.textContent.trim()).map(e => Math.abs(light(getComputedStyle(e).color)-light(getComputedStyle(box).backgroundColor))))}'''

class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args): pass

@pytest.fixture(scope='module')
def site():
    "The folder of the built site and its address."
    done = subprocess.run([*alone, sys.executable, 'tools/docs.py'], cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode==0, done.stdout+done.stderr
    server = ThreadingHTTPServer(('127.0.0.1',0), functools.partial(Quiet, directory=ROOT/'_docs'))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield ROOT/'_docs', f'http://127.0.0.1:{server.server_port}/'
    server.shutdown()

@pytest.fixture(scope='module')
def walked(site, chromium):
    "What every page holds at the width of a phone, which addresses were asked for, and what the browser complained of."
    folder,base = site
    page = chromium.new_page(viewport=dict(width=380, height=800))
    asked,complaints,pages = [], [], {}
    page.on('request', lambda r: asked.append(r.url))
    page.on('console', lambda m: complaints.append(f'{page.url}: {m.text}') if m.type=='error' else None)
    page.on('pageerror', lambda e: complaints.append(f'{page.url}: {e}'))
    for f in sorted(folder.glob('*.html')):
        page.goto(base+f.name); page.wait_for_load_state()
        pages[f.name] = page.evaluate(SEEN)
    page.close()
    return pages, asked, complaints

@browser_test
def test_every_link_leads_somewhere(site, walked):
    folder,base = site
    pages,_,_ = walked
    assert len(pages)>=35
    for name,page in pages.items():
        for link in set(page['links']):
            if not link.startswith(base): assert link.startswith('https://'), (name, link); continue
            to,_,part = link.removeprefix(base).partition('#')
            to = to or 'index.html'
            assert (folder/to).is_file(), (name, link)
            assert not part or to not in pages or part in pages[to]['ids'], (name, link)

@browser_test
def test_every_picture_is_there_and_described(walked):
    pages,_,_ = walked
    pictures = [(name, p) for name,page in pages.items() for p in page['pictures']]
    assert len(pictures)>=150
    assert [x for x in pictures if not x[1]['loaded'] or len(x[1]['alt'])<8]==[]

@browser_test
def test_nothing_comes_from_elsewhere(site, walked):
    _,asked,complaints = walked
    assert [u for u in asked if not u.startswith((site[1],'data:'))]==[] and complaints==[]

@browser_test
def test_a_phone_and_a_screen_reader(walked):
    for name,page in walked[0].items():
        assert page['width']<=380, name
        assert page['language']=='en' and page['headings'].count(1)==1, name
        assert all(b<=a+1 for a,b in zip(page['headings'], page['headings'][1:])), name

@browser_test
@pytest.mark.parametrize('name,to', [('load_weights','unet.html'), ('best_volume','landmarks.html'), ('Pfirrmann','')])
def test_search_finds(site, chromium, name, to):
    page = chromium.new_page(viewport=dict(width=1300, height=900))
    page.goto(site[1]+'index.html')
    page.get_by_role('searchbox').press_sequentially(name)
    first = page.locator('.smalldocs-search-results a').first
    first.wait_for(timeout=5000)
    found = [a.get_attribute('href') for a in page.locator('.smalldocs-search-results a').all()]
    assert any(to in f for f in found), found
    assert page.evaluate(CONTRAST)>100
    first.click(); page.wait_for_load_state()
    assert name.lower() in page.inner_text('main').lower()
    page.close()

@browser_test
def test_light_and_dark(site, chromium):
    page = chromium.new_page(viewport=dict(width=1300, height=900))
    page.goto(site[1]+'unet.html')
    light = lambda: page.evaluate("getComputedStyle(document.body).backgroundColor.match(/[0-9]+/g).slice(0,3).reduce((a,b) => a + +b, 0)/3")
    assert light()>200
    page.locator('.quarto-color-scheme-toggle').first.click(); page.wait_for_timeout(300)
    assert light()<70
    text = page.evaluate("getComputedStyle(document.querySelector('main p')).color.match(/[0-9]+/g).slice(0,3).reduce((a,b) => a + +b, 0)/3")
    assert text>150
    page.goto(site[1]+'index.html'); page.wait_for_timeout(300)
    assert light()<70 # the choice is kept
    page.close()
