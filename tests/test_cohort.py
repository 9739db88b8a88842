"The competition's folder: tables, every kind of flaw that `lumbar check` finds, the cache of a cohort, kills, and mutated tables."
import hashlib,os,random,resource,shutil,signal,subprocess,sys,time
import numpy as np
import pandas as pd
import pytest
from helpers import *
from lumbar_nbdev.cohort import *
from lumbar_nbdev.core import *
from lumbar_nbdev.volume import *

# The competition's folder

SERIES = 'study_id,series_id,series_description\n11,111,Sagittal T1\n11,112,Axial T2\n4290709089,4294540297,Sagittal T2/STIR\n'
POINTS = 'study_id,series_id,instance_number,condition,level,x,y\n11,111,1,Left Neural Foraminal Narrowing,L4/L5,3.5,4.5\n11,111,2,right_neural_foraminal_narrowing,l4_l5,3,4\n'
COLUMNS = [f'{c}_{l}' for c in CONDITIONS for l in LEVELS]

@pytest.fixture
def rsna(tmp_path):
    root = tmp_path/'rsna'; root.mkdir()
    (root/'train_series_descriptions.csv').write_text(SERIES); (root/'train_label_coordinates.csv').write_text(POINTS)
    pd.DataFrame([[s, *(['Normal/Mild','Severe','']*9)[:25]] for s in (11,4290709089)], columns=['study_id',*COLUMNS]).to_csv(root/'train.csv', index=False)
    write_series(root/'train_images/11/111', sagittal()); write_series(root/'train_images/4290709089/4294540297', sagittal(seed=1))
    write_series(root/'train_images/11/112', Volume(np.zeros((4,6,5),np.uint16), make_affine((0,0,0),(0,0,4),(0,1,0),(1,0,0))))
    return root

def test_both_spellings_and_big_ids(rsna):
    c = Cohort(rsna)
    assert c.studies==[11,4290709089] and c.problems==[] and c.series.series_id.max()==4294540297
    assert c.coordinates.condition.tolist()==['left_neural_foraminal_narrowing','right_neural_foraminal_narrowing'] and set(c.coordinates.level)=={'l4_l5'}
    assert {str(t) for table in (c.series,c.coordinates,c.labels) for t in table[['study_id']].dtypes}=={'int64'}
    places = c.places(11, c.volumes(11))
    assert np.allclose(places[['wx','wy','wz']], sagittal().to_world([[0,4.5,3.5],[1,4,3]]))

@pytest.mark.parametrize('name,old,new,words', [
    ('train_series_descriptions.csv', 'series_id', 'series', "the column 'series_id' is missing"),
    ('train_series_descriptions.csv', '11,112', '11,abc', "row 3, column series_id: not a whole number: 'abc'"),
    ('train_series_descriptions.csv', '4290709089', '4290709089.0', "row 4, column study_id"),
    ('train_series_descriptions.csv', 'Axial T2', 'Axial T9', "row 3, column series_description: unknown series_description: 'Axial T9'"),
    ('train_series_descriptions.csv', '11,111', '../../etc,111', "row 2, column study_id"),
    ('train_label_coordinates.csv', 'Left Neural', 'Left Neurol', "row 2, column condition: unknown condition"),
    ('train_label_coordinates.csv', 'L4/L5', 'L6/S1', "row 2, column level: unknown level: 'L6/S1'"),
    ('train_label_coordinates.csv', '3.5', 'nan', "row 2, column x: not a number"),
    ('train_label_coordinates.csv', 'instance_number', 'instance', "the column 'instance_number' is missing"),
    ('train_series_descriptions.csv', '4294540297', '-427000', "row 4, column series_id: not a whole number: '-427000'; ids have no sign; were they squeezed into 32 bits?"),
    ('train_series_descriptions.csv', '4290709089', '4.29E+09', "was it rounded by a spreadsheet?"),
    ('train_series_descriptions.csv', '11,112,Axial T2', '11,111,Axial T2', "row 3 lists series 111 again, as another kind"),
    ('train_series_descriptions.csv', '11,112,Axial T2', '11,112,Axial T2,', "row 3 has 4 cells and the header 3"),
    ('train_label_coordinates.csv', '3.5', '1_000', "row 2, column x: not a number"),
    ('train_label_coordinates.csv', '2,right', '\u0662,right', "row 3, column instance_number"),
    ('train_label_coordinates.csv', ',y', ',x', "the column 'y' is missing"),
    ('train.csv', 'Severe', 'Terrible', "unknown severity: 'Terrible'"),
    ('train.csv', 'spinal_canal_stenosis_l1_l2', 'spinal_canal_stenosis_l9_l9', "is missing"),
    ('train.csv', '4290709089', '11', "study 11 is given twice")])
def test_wrong_tables_name_file_row_and_value(rsna, name, old, new, words):
    path = rsna/name
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(InputError) as e: Cohort(rsna)
    assert words in str(e.value) and name in str(e.value) and '\n' not in str(e.value)

@pytest.mark.parametrize('raw', [b'', b'\xff\xfe\x00\x01', b'study_id,series_id,series_description\n1,2,"open'], ids=['empty','binary','open quote'])
def test_unreadable_tables(rsna, raw):
    (rsna/'train_series_descriptions.csv').write_bytes(raw)
    with pytest.raises(InputError, match='train_series_descriptions.csv'): Cohort(rsna)

def test_folders_that_are_no_cohort(tmp_path, rsna):
    (tmp_path/'empty').mkdir()
    for path,words in ((tmp_path/'nowhere','no such folder'), (tmp_path/'empty','the folder is empty'), (rsna/'train_images',"not the competition's layout"), (rsna/'train.csv','not a folder')):
        for look in (Cohort, check_rsna):
            with pytest.raises(InputError, match=words): look(path)
    with pytest.raises(InputError, match='no test part'): Cohort(rsna, 'test')
    (rsna/'train.csv').unlink()
    with pytest.raises(InputError, match='no such file.*train.csv'): Cohort(rsna)

def test_disk_and_table_may_disagree(rsna):
    shutil.rmtree(rsna/'train_images/4290709089'); (rsna/'train_images/11/999').mkdir(); (rsna/'train_images/77/1').mkdir(parents=True); (rsna/'train_images/notes').mkdir()
    c = Cohort(rsna)
    assert len(c.problems)==3 and c.studies==[11,4290709089] and c.volumes(4290709089)==[]
    assert all(any(word in p for p in c.problems) for word in ('4290709089','11/999','77'))

def test_one_bad_series_does_not_stop_a_study(rsna):
    for f in (rsna/'train_images/11/111').iterdir(): f.write_text('no image')
    c = Cohort(rsna)
    assert [v.meta['series_id'] for v in c.volumes(11)]==[112] and len(c.places(11, c.volumes(11)))==0
    assert len(c.problems)==1 and 'series 111' in c.problems[0] and str(rsna) not in c.problems[0]
    assert any('files that cannot be read: 5' in line for line in check_rsna(rsna))

def test_the_test_part_comes_first_unless_it_is_empty(rsna):
    (rsna/'test_series_descriptions.csv').write_text(SERIES.split('\n')[0]+'\n')
    assert Cohort(rsna).split=='train' and Cohort(rsna,'test').studies==[]
    (rsna/'test_series_descriptions.csv').write_text(SERIES)
    c = Cohort(rsna)
    assert c.split=='test' and c.labels is None and c.coordinates is None and c.problems==['the folder test_images is missing: no pictures'] and len(c.places(11,[]))==0

def test_keep_and_split(rsna):
    c = Cohort(rsna)
    train,held = c.split_studies(.5, 0)
    part = c.keep(train)
    assert part.studies==train and set(part.labels.study_id)==set(train) and len(c.studies)==2 and not set(train)&set(held)
    with pytest.raises(InputError, match='no such study'): c.keep([5])
    with pytest.raises(InputError, match='too few studies'): part.split_studies(.5, 0)

@pytest.mark.skipif(not (REAL/'rsna_like').is_dir(), reason="no ../shared/data/rsna_like")
def test_real_competition_tree():
    c = Cohort(REAL/'rsna_like')
    assert c.split=='test' and [v.plane for v in c.volumes(c.studies[0])]==['sagittal','axial'] and c.problems==[]
    lines = check_rsna(REAL/'rsna_like')
    assert len(lines)==3 and lines[-1].startswith('missing: studies without Sagittal T1: 1 (90000001); ')

def test_several_bad_rows_are_counted(rsna):
    path = rsna/'train_label_coordinates.csv'; path.write_text(path.read_text().replace('L4/L5','L6/S1').replace('l4_l5','l6_s1'))
    with pytest.raises(InputError, match=r"row 2, column level: unknown level: 'L6/S1'.*\(1 more rows of this column are wrong\)"): Cohort(rsna)
    (rsna/'train.csv').write_text('study_id\n11\n')
    lines = check_rsna(rsna)
    assert len(lines)==2 and all(l.startswith('wrong: ') for l in lines) and 'train.csv' in lines[0] and 'train_label_coordinates.csv' in lines[1]

# Every kind of flaw, planted into a folder without one

@pytest.fixture(scope='session')
def sound(tmp_path_factory): return write_rsna(tmp_path_factory.mktemp('sound'))

@pytest.fixture
def folder(sound, tmp_path): return shutil.copytree(sound, tmp_path/'rsna')

def edit(root, name, change):
    "Read a table as text, change it, write it."
    path = root/f'train_{name}.csv' if name!='train' else root/'train.csv'
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    new = change(table); (table if new is None else new).to_csv(path, index=False)

def points(root, rows, **values):
    "Write values to some rows of the coordinates; a function is given the old ones."
    def change(t):
        own = t.eval(rows)
        for c,v in values.items(): t.loc[own,c] = [str(x) for x in v(t.loc[own,c].astype(float))] if callable(v) else str(v)
    edit(root, 'label_coordinates', change)

def series_files(root, study, series): return sorted((root/f'train_images/{study}/{series}').iterdir())
def remake(root, series, affine, shape=None, study=11):
    "Write a series of study 11 anew with another affine."
    folder = root/f'train_images/{study}/{series}'; n = shape or (7,64,48); shutil.rmtree(folder)
    write_series(folder, Volume(np.zeros(n,np.uint16), affine), uid='1.2.9')
def second(kind):
    "Another series of a type for study 11, a copy of the first."
    def plant(root):
        old = {'Sagittal T1':110,'Axial T2':112}[kind]
        shutil.copytree(root/f'train_images/11/{old}', root/'train_images/11/119')
        edit(root, 'series_descriptions', lambda t: pd.concat([t, pd.DataFrame([['11','119',kind]], columns=t.columns)]))
        if kind=='Sagittal T1': points(root, "series_id=='110' & level=='L5/S1'", series_id=119)
        else: points(root, "series_id=='112' & level=='L5/S1' & condition=='Left Subarticular Stenosis'", series_id=119)
    return plant
def no_type(root): edit(root, 'series_descriptions', lambda t: t[t.series_id!='112']); shutil.rmtree(root/'train_images/11/112'); points_gone(root, "series_id=='112'")
def points_gone(root, rows): edit(root, 'label_coordinates', lambda t: t[~t.eval(rows)])
def empty(root, column): edit(root, 'train', lambda t: t.__setitem__(column, ['','Severe']))
def every(root, series, **tags): [retag(p, **tags) for p in series_files(root, 11, series)]
def renumber(root, series, by):
    for p in reversed(series_files(root, 11, series)): retag(p, InstanceNumber=int(p.stem)+by); p.rename(p.with_name(f'{int(p.stem)+by}.dcm.new'))
    for p in series_files(root, 11, series): p.rename(p.with_suffix(''))
def swap(root): points(root, "study_id=='11' & condition.str.startswith('Left Sub')", condition='X'); points(root, "study_id=='11' & condition.str.startswith('Right Sub')", condition='Left Subarticular Stenosis'); points(root, "condition=='X'", condition='Right Subarticular Stenosis')
def backwards(root):
    files = series_files(root, 11, 111)
    for p in files: retag(p, InstanceNumber=8-int(p.stem)); p.rename(p.with_suffix('.new'))
    for p in series_files(root, 11, 111): p.rename(p.with_name(f'{8-int(p.stem)}.dcm'))
    points(root, "series_id=='111'", instance_number=lambda n: (8-n).astype(int))

CANAL_11,LEFT_11 = "study_id=='11' & condition=='Spinal Canal Stenosis'","study_id=='11' & condition=='Left Neural Foraminal Narrowing'"
FLAWS = [
    ('two T1 series share the labels', second('Sagittal T1'), 'note: studies with several Sagittal T1 series: 1 (11)'),
    ('several axial series', second('Axial T2'), 'note: studies with several Axial T2 series: 1 (11)'),
    ('points in two series', second('Axial T2'), 'note: left and right points in two different series: 1 of 20 pairs'),
    ('a missing type', no_type, 'missing: studies without Axial T2: 1 (11)'),
    ('labels without points', no_type, 'missing: labels without a coordinate: 10 (11_left_subarticular_stenosis_l1_l2'),
    ('an empty label', lambda r: empty(r, 'spinal_canal_stenosis_l1_l2'), 'missing: empty grades: 1 in 1 of 2 studies'),
    ('a point without a label', lambda r: empty(r, 'spinal_canal_stenosis_l1_l2'), 'missing: coordinates without a label: 1 (11_spinal_canal_stenosis_l1_l2)'),
    ('a study without points', lambda r: points_gone(r, "study_id=='11'"), 'missing: studies without any point: 1 (11)'),
    ('foramina on one spot', lambda r: points(r, "study_id=='11' & condition.str.contains('Foram')", instance_number=4), 'wrong: left and right points overlap: 5 (11_foraminal_l1_l2'),
    ('left and right swapped', swap, "wrong: left and right are swapped against the patient's x: 5 (11_subarticular_l1_l2"),
    ('foramina one level off', lambda r: points(r, LEFT_11, y=lambda y: y+10), 'wrong: points at the height of another level: 4 (11_left_neural_foraminal_narrowing_l1_l2'),
    ('one point astray', lambda r: points(r, LEFT_11+" & level=='L3/L4'", y=lambda y: y+9), 'wrong: points at the height of another level: 1 (11_left_neural_foraminal_narrowing_l3_l4)'),
    ('levels out of order', lambda r: points(r, CANAL_11, y=lambda y: y.to_numpy()[[0,2,1,3,4]]), 'wrong: levels that do not descend along the spine: 1 (11_spinal_canal_stenosis)'),
    ('a point outside', lambda r: points(r, CANAL_11+" & level=='L1/L2'", x=48), 'wrong: points outside their picture: 1 (11_spinal_canal_stenosis_l1_l2)'),
    ('an instance that is not there', lambda r: points(r, CANAL_11, instance_number=99), 'wrong: points on an instance that is not there: 5'),
    ('canal points on the T1', lambda r: points(r, CANAL_11, series_id=110), 'wrong: points on a series of another type than their condition is read from: 5 (11_spinal'),
    ('points on an unlisted series', lambda r: points(r, CANAL_11, series_id=777), 'wrong: series with coordinates that are not in the series table: 1 (11/777)'),
    ('a sagittal that is axial', lambda r: remake(r, 111, GRIDS['Axial T2'][1], (20,40,40)), 'wrong: series in another plane than described: 1 (11/111 (axial, said to be Sagittal T2/STIR))'),
    ('another region', lambda r: remake(r, 111, GRIDS['Sagittal T1'][1]+np.array([[0,0,0,0]]*2+[[0,0,0,400]]+[[0]*4])), "wrong: series that lie beside the study's other series: 1 (11/111)"),
    ('a whole spine', lambda r: remake(r, 111, GRIDS['Sagittal T1'][1]*np.array([1,4,1,1])+np.array([[0]*4]*2+[[0,0,0,200]]+[[0]*4])), 'wrong: sagittal series that are not 150 to 500 mm high: 1 (11/111)'),
    ('a row that is there twice', lambda r: edit(r, 'label_coordinates', lambda t: pd.concat([t, t[:1]])), 'wrong: train_label_coordinates.csv: rows that repeat another one, left out: 1 (52)'),
    ('a place with two points', lambda r: points(r, CANAL_11+" & level=='L2/L3'", level='L1/L2'), 'wrong: places with several points: 1 (11_spinal_canal_stenosis_l1_l2)'),
    ('two spellings', lambda r: points(r, "level=='L1/L2'", level='l1_l2'), "note: two spellings in the coordinates: 10 like 'l1_l2', 40 like the titles"),
    ('numbers with a gap', lambda r: series_files(r, 11, 112)[0].unlink(), 'note: series whose instance numbers do not run from 1 to n: 1 (11/112)'),
    ('numbers beyond n', lambda r: renumber(r, 112, 5000), 'note: series whose instance numbers do not run from 1 to n: 1 (11/112)'),
    ('a number given twice', lambda r: retag(series_files(r, 11, 110)[0], InstanceNumber=2), 'wrong: series with an instance number given twice: 1 (11/110)'),
    ('files named otherwise', lambda r: every(r, 112, InstanceNumber=3), 'wrong: series whose files are named otherwise than their instance number: 1 (11/112)'),
    ('a slice missing', lambda r: series_files(r, 11, 112)[5].unlink(), 'note: series with a slice missing between others: 1 (11/112)'),
    ('a position given twice', lambda r: retag(r/'train_images/11/112/7.dcm', ImagePositionPatient=[-50,-50,-35]), 'note: series with slices at one and the same position: 1 (11/112)'),
    ('two orientations', lambda r: [retag(r/f'train_images/11/112/{n}.dcm', ImageOrientationPatient=[1,0,0,0,.94,-.342]) for n in (1,2,3)], 'note: series of several orientations: 1 (11/112)'),
    ('two matrix sizes', lambda r: write_slice(r/'train_images/11/112/21.dcm', Volume(np.zeros((21,30,30),np.uint16), GRIDS['Axial T2'][1]), 20), 'note: series of several matrix sizes: 1 (11/112)'),
    ('stack direction', backwards, "note: Sagittal T2/STIR numbered toward the patient's"),
    ('no slice spacing', lambda r: every(r, 110, SpacingBetweenSlices=None), 'note: series without SpacingBetweenSlices in their headers: 1 of 6'),
    ('no slice thickness', lambda r: every(r, 110, SliceThickness=None), 'note: series without SliceThickness in their headers: 1 of 6'),
    ('a broken file', lambda r: series_files(r, 11, 110)[0].write_text('no image'), 'wrong: files that cannot be read: 1 (11/110/1.dcm (not a DICOM file))'),
    ('an empty series', lambda r: [p.unlink() for p in series_files(r, 11, 112)], 'wrong: series without files: 1 (11/112)'),
    ('a missing series', lambda r: shutil.rmtree(r/'train_images/11/112'), 'wrong: series of the table without a folder: 1 (11/112)'),
    ('a missing study', lambda r: shutil.rmtree(r/'train_images/11'), 'wrong: studies of the table without a folder: 1 (11)'),
]

def findings(lines): return [l for l in lines if l.startswith(('wrong: ','missing: ','note: '))]

def test_a_sound_folder_has_no_findings(sound):
    lines = check_rsna(sound)
    assert findings(lines)==[] and lines[0]=='train: 2 studies, 6 series (2 Sagittal T1, 2 Sagittal T2/STIR, 2 Axial T2)' and '68 DICOM files, 68 with a sound header' in lines[1]

@pytest.mark.parametrize('name,plant,words', FLAWS, ids=[f[0] for f in FLAWS])
def test_each_flaw_is_found_by_rule(folder, name, plant, words):
    plant(folder)
    found = [l for l in findings(check_rsna(folder)) if l.startswith(words)]
    assert len(found)==1, findings(check_rsna(folder))
    assert '\n' not in found[0] and str(folder) not in found[0] and 'Doe' not in found[0]

def test_check_uses_all_cores_and_says_the_same(tmp_path):
    from lumbar_nbdev import cohort as module
    root = write_rsna(tmp_path/'rsna', range(1,9)); shutil.rmtree(root/'train_images/3/31')
    one,two = (module._survey(Cohort(root), n) for n in (1,2))
    assert len(one.series)==24 and one.series.astype(str).equals(two.series.astype(str)) and one.points.equals(two.points)

def test_a_random_folder_of_oddities_never_raises(folder):
    for plant in (FLAWS[0][1], FLAWS[8][1], FLAWS[17][1], FLAWS[31][1]): plant(folder)
    for p in series_files(folder, 4290709089, 4294540292)[::2]: retag(p, ImagePositionPatient=None, PixelSpacing=None)
    assert len(findings(check_rsna(folder)))>6

# The cache of a cohort: all cores, resumable, one bad study is passed over

def cache_files(root): return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in root.rglob('*') if p.is_file() and not p.name.startswith('.') and p.suffix!='.lock'}

def test_cache_is_filled_by_several_processes_and_a_bad_study_is_noted(folder, tmp_path):
    for p in series_files(folder, 11, 110): p.write_text('no image')
    cohort = Cohort(folder)
    assert cache_cohort(cohort, 2)==5 and len(cohort.problems)==1 and 'study 11, series 110 is skipped' in cohort.problems[0] and str(folder) not in cohort.problems[0]
    before = cache_files(tmp_path/'own-cache'); assert before
    assert cache_cohort(Cohort(folder), 1)==5 and cache_files(tmp_path/'own-cache')==before
    assert [v.meta['series_id'] for v in Cohort(folder).volumes(11)]==[111,112]

def alive(session):
    "Processes of a session that still run (a zombie does not)."
    facts = [f.rpartition(')')[2].split() for p in Path('/proc').glob('[0-9]*/stat') if (f:=_text(p))]
    return [f for f in facts if f[3]==str(session) and f[0]!='Z']
def _text(path):
    try: return path.read_text()
    except OSError: return ''

def fill(root): cache_cohort(Cohort(root), 2)

@pytest.mark.parametrize('kills', [int(os.environ.get('LUMBAR_KILLS', 3))])
def test_killed_caching_ends_like_an_undisturbed_run(tmp_path, kills):
    "Kill -9 of the parent at random moments; LUMBAR_KILLS=50 is the long run."
    root,cache = write_rsna(tmp_path/'rsna', range(1,13)),tmp_path/'own-cache'
    cohort = Cohort(root); begin = time.perf_counter(); cache_cohort(cohort, 2); whole = time.perf_counter()-begin
    undisturbed = cache_files(cache); rng = random.Random(42); broken = 0
    assert undisturbed
    for i in range(kills):
        if i%3==0: shutil.rmtree(cache, ignore_errors=True)
        p = forked(fill, root); time.sleep(rng.uniform(0, whole)); p.kill(); p.join(); broken += p.exitcode!=0
        end = time.time()+8
        while alive(p.pid) and time.time()<end: time.sleep(.05)
        assert not alive(p.pid), "workers outlive their parent"
        for kept in cache_files(cache).items(): assert kept in undisturbed.items()
    print(f'{broken} of {kills} were killed while running')
    assert broken>0 and cache_cohort(Cohort(root), 2)==36 and cache_files(cache)==undisturbed

def test_two_interpreters_write_the_same_cache(folder, tmp_path):
    "Processes forked from one another share the seed of their hashes, so only fresh ones show an order that is left to chance."
    cache_cohort(Cohort(folder), 1); here = cache_files(tmp_path/'own-cache'); shutil.rmtree(tmp_path/'own-cache')
    code = 'import sys; from lumbar_nbdev.cohort import *; cache_cohort(Cohort(sys.argv[1]), 1)'
    subprocess.run([sys.executable,'-c',code,str(folder)], check=True, stderr=subprocess.DEVNULL)
    assert here and cache_files(tmp_path/'own-cache')==here

def test_ctrl_c_stops_soon_and_the_next_run_goes_on(tmp_path):
    root = many(tmp_path/'rsna', 100, (17,64,64))
    p = forked(fill, root)
    while p.is_alive() and not cache_files(tmp_path/'own-cache'): time.sleep(.01)
    os.killpg(p.pid, signal.SIGINT); p.join(30)
    assert p.exitcode==1 and not alive(p.pid) and not list((tmp_path/'own-cache').rglob('.*tmp*'))
    assert 0<len(cache_files(tmp_path/'own-cache'))<100
    assert cache_cohort(Cohort(root), 2)==300

def test_a_killed_worker_is_told(tmp_path):
    with pytest.raises(InputError, match='a worker process was ended from outside'): list(spread(_die, [1,2,3], 2, 'test'))
def _die(x): os.kill(os.getpid(), signal.SIGKILL)

def peak(root, out):
    fill(root); out.write_text(' '.join(str(resource.getrusage(w).ru_maxrss/1024) for w in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)))

def many(root, n, shape=(17,256,256)):
    "A folder of n studies of three series, hard links to the files of one; 6.7 MB of pixels a study."
    for j in range(3): write_series(root/f'one/{j}', Volume(np.random.default_rng(j).integers(0,4000,shape).astype(np.uint16), GRIDS['Sagittal T1'][1]))
    rows = [(s, 10*s+j, kind) for s in range(1,n+1) for j,kind in enumerate(SERIES_TYPES)]
    pd.DataFrame(rows, columns=SERIES_COLUMNS).to_csv(root/'test_series_descriptions.csv', index=False)
    for s,r,_ in rows: shutil.copytree(root/f'one/{r%10}', root/f'test_images/{s}/{r}', copy_function=os.link)
    return root

SIZES = (20,80) if os.environ.get('LUMBAR_KILLS') else (5,25) # Studies

def test_memory_does_not_grow_with_the_number_of_studies(tmp_path):
    peaks = {}
    for n in SIZES:
        p = forked(peak, many(tmp_path/f'rsna{n}', n), tmp_path/'peak'); p.join(); assert p.exitcode==0
        peaks[n] = [float(x) for x in (tmp_path/'peak').read_text().split()]
    print('peak MiB of the parent and of the largest worker:', peaks)
    few,more = SIZES
    assert peaks[more][0]<peaks[few][0]+30 and peaks[more][1]<peaks[few][1]+30 # MiB; the pixels of 20 studies more are 134

# Mutated tables: read as they stand, or refused with our error

def same_as_said(cohort, root):
    "The tables hold what the files say, and nothing else."
    plain = lambda x: x.lower().replace(' ','_').replace('/','_')
    series = {(int(r['study_id']),int(r['series_id']),r['series_description']) for r in said(root/'train_series_descriptions.csv')}
    assert set(cohort.series[list(SERIES_COLUMNS)].itertuples(index=False, name=None))==series and len(cohort.series)==len(series)
    points = {(int(r['study_id']),int(r['series_id']),int(r['instance_number']),plain(r['condition']),plain(r['level']),float(r['x']),float(r['y'])) for r in said(root/'train_label_coordinates.csv')}
    assert set(cohort.coordinates[list(COORDINATE_COLUMNS)].itertuples(index=False, name=None))==points and len(cohort.coordinates)==len(points)
    labels = {(int(r['study_id']),c[:-6],c[-5:],SUBMISSION_COLUMNS.index(plain(r[c]))) for r in said(root/'train.csv') for c in r if c!='study_id' and r[c]}
    assert set(cohort.labels[['study_id','condition','level','severity']].itertuples(index=False, name=None))==labels and len(cohort.labels)==len(labels)
    assert {str(t.study_id.dtype) for t in (cohort.series,cohort.coordinates,cohort.labels) if len(t)}<={'int64'}

@pytest.mark.parametrize('seed', range(int(os.environ.get('LUMBAR_FUZZ', 200))//100))
def test_mutated_tables_are_read_as_they_stand_or_refused(sound, tmp_path, seed):
    "A hundred tables a seed; LUMBAR_FUZZ=2000 is the long run."
    rng,read,refused = random.Random(seed),0,0
    names = ('train.csv','train_series_descriptions.csv','train_label_coordinates.csv'); texts = {n: (sound/n).read_text().strip('\n') for n in names}
    shutil.copytree(sound/'train_images', tmp_path/'r/train_images', copy_function=os.link)
    for i in range(100):
        for n in names: (tmp_path/'r'/n).write_text(texts[n])
        name = rng.choice(names); (tmp_path/'r'/name).write_bytes(mutate(rng, texts[name]).encode('utf-8','surrogatepass'))
        begin = time.perf_counter()
        try: cohort = Cohort(tmp_path/'r')
        except InputError as e: refused += 1; assert name in str(e) and '\n' not in str(e)
        else: read += 1; same_as_said(cohort, tmp_path/'r')
        if i%20==seed%20: assert all('\n' not in l for l in check_rsna(tmp_path/'r'))
        assert time.perf_counter()-begin<5
    print(f'{read} read as they stand, {refused} refused')
    assert read>15 and refused>20
