"The report as a reader meets it: sorted, filtered and opened in a browser, and without a trace of a patient's name."
from pathlib import Path
import pandas as pd
import pytest
from pydicom import dcmread
from browser import browser_test,chromium
from lumbar_nbdev.cli import main
from lumbar_nbdev.cohort import Cohort
from lumbar_nbdev.phantom import phantom_cohort
from lumbar_nbdev.report import write_report

SECRETS = dict(PatientName='Quilligan^Zebedee', PatientID='HX-88172', PatientBirthDate='19431107', AccessionNumber='ACC5561209', InstitutionName='Saint Elsewhere', OtherPatientNames='Quilligan^Zeb', PatientComments='Zebedee is afraid of needles')

@pytest.fixture(scope='module')
def named(tmp_path_factory):
    "Three studies whose files carry a patient's name and more, one of them without its axial series."
    out = tmp_path_factory.mktemp('named')/'rsna'
    cohort = Cohort(phantom_cohort(6, seed=7)/'rsna')
    for s in cohort.studies[:3]:
        for r in cohort.series[cohort.series.study_id==s].itertuples():
            if s==cohort.studies[2] and r.series_description=='Axial T2': continue
            for f in cohort.series_path(s, r.series_id).iterdir():
                ds = dcmread(f)
                for k,v in SECRETS.items(): setattr(ds, k, v)
                to = out/'test_images'/str(s)/str(r.series_id)/f.name
                to.parent.mkdir(parents=True, exist_ok=True); ds.save_as(to)
    series = cohort.series[cohort.series.study_id.isin(cohort.studies[:3])]
    series[['study_id','series_id','series_description']].to_csv(out/'test_series_descriptions.csv', index=False)
    return out

@pytest.fixture(scope='module')
def report(named, tmp_path_factory):
    "The report of those three studies."
    out = tmp_path_factory.mktemp('graded')
    assert main(['predict', str(named), '--out', str(out)])==0
    return out/'report'

def hidden_in(folder):
    "Which secrets the files of a folder hold."
    text = b''.join(p.read_bytes()+p.name.encode() for p in Path(folder).rglob('*') if p.is_file())
    return [k for k,v in SECRETS.items() if any(part.encode() in text for part in v.replace('^',' ').split() if len(part)>4)]

def test_no_name_reaches_the_report(named, report):
    assert len(hidden_in(named))==len(SECRETS)
    assert hidden_in(report.parent)==[]

def test_no_name_survives_the_intake(named, tmp_path, capsys):
    assert main(['intake', str(named), '--out', str(tmp_path/'mine')])==0
    said = capsys.readouterr()
    assert hidden_in(tmp_path/'mine')==[] and not any(v in said.out+said.err for v in SECRETS.values())
    assert len(Cohort(tmp_path/'mine').studies)==3

def test_the_intakes_key_is_kept_apart(named, tmp_path, capsys):
    assert main(['intake', str(named), '--out', str(tmp_path/'mine'), '--key', str(tmp_path/'mine/key.csv')])==2
    assert 'kept apart' in capsys.readouterr().err and not (tmp_path/'mine').exists()
    assert main(['intake', str(named), '--out', str(tmp_path/'mine'), '--key', str(tmp_path/'key.csv')])==0
    key = pd.read_csv(tmp_path/'key.csv')
    assert set(key.study_id)==set(Cohort(tmp_path/'mine').studies) and key.study_uid.nunique()==3
    assert all((named/f).is_dir() for f in key.folder) and not list((tmp_path/'mine').rglob('*key*'))

def test_intake_refuses(tmp_path, capsys):
    (tmp_path/'a').mkdir(); (tmp_path/'a/x.txt').write_text('no')
    for folder in (tmp_path/'none', tmp_path/'a'):
        assert main(['intake', str(folder), '--out', str(tmp_path/'b')])==2
        err = capsys.readouterr().err
        assert str(folder) in err and len(err.splitlines())==1
    assert not (tmp_path/'b').exists()

@pytest.fixture
def page(chromium):
    "A browser's page, with what it asked of a network and what it complained of."
    page = chromium.new_page(viewport=dict(width=1200, height=900))
    page.asked,page.wrong = [],[]
    page.on('request', lambda r: None if r.url.startswith(('file:','data:')) else page.asked.append(r.url))
    page.on('console', lambda m: page.wrong.append(m.text) if m.type=='error' else None)
    page.on('pageerror', lambda e: page.wrong.append(str(e)))
    yield page
    assert not page.asked and not page.wrong
    page.close()

def shown(page): return page.locator('#cohort tbody tr:visible')

@browser_test
def test_sort_filter_and_open(report, page):
    page.goto(f'file://{report}/index.html')
    assert shown(page).count()==3 and 'no medical device' in page.inner_text('body')
    graded = lambda: [int(t.split()[0]) for t in page.locator('#cohort tbody td:nth-child(5)').all_inner_texts()]
    for order in (sorted(graded(), reverse=True), sorted(graded())):
        page.get_by_role('button', name='From images').click()
        assert graded()==order
    assert page.locator('th[aria-sort=ascending]').count()==1
    page.fill('#find', 'no Axial T2'); assert shown(page).count()==1 and page.inner_text('#count')=='1 shown'
    page.fill('#find', '')
    for box in page.locator('.worst').all(): box.uncheck()
    assert shown(page).count()==0
    for box in page.locator('.worst').all(): box.check()
    page.locator('#cohort tbody a').first.click()
    assert page.locator('h2').all_inner_texts()[:1]==['Grades'] and page.locator('td.grade').count()==25
    assert page.locator('.panels svg').count()>=20
    page.get_by_label('show outlines').uncheck(); assert not page.locator('.panels path').first.is_visible()
    page.locator('summary').first.click(); assert page.locator('.strip svg').first.is_visible()
    page.get_by_role('link', name='All studies').click(); assert shown(page).count()==3

@browser_test
@pytest.mark.parametrize('scheme', ['light','dark'])
def test_on_a_phone(report, page, scheme):
    page.set_viewport_size(dict(width=380, height=700)); page.emulate_media(color_scheme=scheme)
    for f in (report/'index.html', next((report/'studies').iterdir())):
        page.goto(f'file://{f}')
        assert page.evaluate('document.documentElement.scrollWidth')<=380
        ink,paper = (page.evaluate(f'getComputedStyle(document.body).{k}') for k in ('color','backgroundColor'))
        bright = lambda c: sum(map(float, c[4:-1].split(',')))/3
        assert (bright(paper)>200)==(scheme=='light') and abs(bright(ink)-bright(paper))>120

@browser_test
def test_fifty_studies_open_within_a_second(tmp_path, page):
    cell = [[[0,False,'tip']]*5]*5
    write_report([dict(id=k, worst=k%4-1, severe=k, moderate=1, graded=25, notes=[], cells=cell) for k in range(50)], tmp_path)
    page.goto(f'file://{tmp_path}/index.html')
    took = page.evaluate("performance.getEntriesByType('navigation')[0].domComplete")
    assert 0<took<1000 and shown(page).count()==50

def test_a_page_escapes_what_comes_from_files(tmp_path):
    text = write_report([dict(id=1, worst=0, severe=0, moderate=0, graded=0, notes=['<script>alert(1)</script>'], cells=[])], tmp_path).read_text()
    assert '<script>alert' not in text and '&lt;script&gt;alert' in text
