"SPIDER as it really comes: orders of axes, dirt in its tables, every kind of flaw that `lumbar check` finds, and mutated tables."
import csv,io,os,random,shutil,time
import numpy as np
import pandas as pd
import pytest
from helpers import *
from lumbar_nbdev.core import *
from lumbar_nbdev.spider import *
from lumbar_nbdev.volume import *

# SPIDER

GRADED = ','.join(GRADINGS)+'\n3,1,0,0,0,0,0,1,1,4\n3,0,0,0,0,0,0,1,1,4\n'

@pytest.fixture
def spider(tmp_path):
    root = tmp_path/'spider'
    for i,stem in enumerate(('3_t1','3_t2_SPACE','12_t2')):
        v = sagittal(seed=i)
        axes = [[0,1],[1,1],[2,1]] if i else [[2,1],[0,-1],[1,1]]
        write_image(Volume(v.data.astype(np.float32)-1000, v.affine, dict(axes=axes)), root/f'images/{stem}.mha')
        write_image(Volume(np.array([0,1,7,100,201,207],np.int16)[v.data%6], v.affine, dict(axes=axes)), root/f'masks/{stem}.mha')
    (root/'overview.csv').write_text('new_file_name,sex,subset\n3_t1,F,training\n3_t2_SPACE,F ,training\n12_t2,M,training\n'); (root/'radiological_gradings.csv').write_text(GRADED)
    return root

def test_spider_reads_both_orders(spider):
    s = SpiderSet(spider)
    assert s.patients==[3,12] and s.series.kind.tolist()==['t1','t2_SPACE','t2'] and len(s.gradings)==1 and s.problems==['gradings of disc 0, which does not exist, dropped: 1 (patients 3)']
    for i,stem in enumerate(s.series.stem):
        image,mask = s.load(stem)
        assert np.array_equal(image.data, sagittal(seed=i).data.astype(np.float32)-1000) and mask.data.dtype==np.uint16 and np.allclose(image.affine, sagittal().affine)
    assert s.overview.sex.tolist()==['F','F','M']
    train,held = s.split(.5, 1)
    assert {parse_stem(t)[0] for t in train}.isdisjoint({parse_stem(t)[0] for t in held}) and len(train)+len(held)==3

def test_official_split_is_used(spider):
    (spider/'overview.csv').write_text('new_file_name,subset\n3_t1,validation\n3_t2_SPACE,validation\n12_t2,training\n')
    assert SpiderSet(spider).split(.1, 0)==(['12_t2'],['3_t1','3_t2_SPACE'])

def test_bad_series_are_skipped_and_named(spider):
    write_image(sagittal((4,12,10)), spider/'masks/12_t2.mha'); (spider/'images/3_t1.mha').write_text('no image'); shutil.copy(spider/'images/3_t2_SPACE.mha', spider/'images/scan.mha')
    s = SpiderSet(spider)
    assert s.series.stem.tolist()==['3_t2_SPACE'] and all(any(word in p for p in s.problems) for word in ('12_t2 is skipped: mask and image differ','3_t1 is skipped: image unreadable','scan'))
    with pytest.raises(InputError, match='fewer than two patients'): s.split(.5, 0)

def test_strange_mask_values_are_refused(spider):
    v = sagittal()
    for bad in (255, 99, 226, 150):
        write_image(Volume(np.where(v.data>2000, bad, 0).astype(np.int16), v.affine), spider/'masks/12_t2.mha')
        with pytest.raises(InputError, match='mask values that SPIDER does not use'): SpiderSet(spider).load('12_t2')
    write_image(Volume((v.data%3/2).astype(np.float32), v.affine), spider/'masks/12_t2.mha')
    s = SpiderSet(spider)
    assert [stem for stem,_,_ in s.pairs(['12_t2','3_t2_SPACE'])]==['3_t2_SPACE'] and any('12_t2 is skipped' in p for p in s.problems)
    assert any(line.startswith('wrong: mask values') for line in check_spider(spider))

def test_spider_tables_and_folders_that_are_wrong(spider, tmp_path):
    (tmp_path/'empty').mkdir()
    for path,words in ((tmp_path/'nowhere','no such folder'), (tmp_path/'empty','the folder is empty'), (spider/'images',"not SPIDER's layout"), (spider/'overview.csv','not a folder')):
        with pytest.raises(InputError, match=words): check_spider(path)
    for old,new,words in (('Pfirrman grade','Pfirrmann',"the column 'Pfirrman grade' is missing"), ('3,1,0','3,x,0',"row 2, column IVD label: not a grade: 'x'; expected a whole number from 0 to 25"), (',4\n',',9\n',"column Pfirrman grade: not a grade: '9'; expected a whole number from 1 to 5")):
        (spider/'radiological_gradings.csv').write_text(GRADED.replace(old,new,1))
        with pytest.raises(InputError, match=words): SpiderSet(spider)
    (spider/'radiological_gradings.csv').unlink(); (spider/'overview.csv').unlink(); shutil.rmtree(spider/'masks')
    lines = check_spider(spider)
    assert {'0 masks','missing: series without a mask: 3 of 3','missing: radiological_gradings.csv is missing: no gradings','missing: overview.csv is missing: no official split'}<=set(lines)

@pytest.mark.skipif(not (REAL/'spider_mini').is_dir(), reason="no ../shared/data/spider_mini and spider_midslices")
def test_real_spider_folders():
    s = SpiderSet(REAL/'spider_mini')
    assert len(s.patients)==25 and not s.problems
    image,mask = s.load('4_t2')
    assert image.plane=='sagittal' and image.shape==mask.shape
    discs = [np.argwhere(mask.data==v).mean(0)[1] for v in (201,202,203,204)]
    assert (np.diff(discs)<0).all(), "discs are counted from the bottom, rows run from head to foot"
    lines = check_spider(REAL/'spider_midslices')
    assert 'missing: series without a mask: 300 of 300' in lines
    assert any(l.startswith('wrong: pictures without a mask that look upside down: 3 (55_t1, 57_t1, 57_t2); ') for l in lines), "these three, seen by eye, and no other"

# Every kind of flaw, planted into a folder without one

def spine(seed, discs=5):
    "A sagittal picture and its mask: discs, vertebrae and a canal, counted from the bottom."
    image = sagittal((6,60,24), seed); image.affine[1,2] = .7; mask = np.zeros(image.shape, np.int16)
    for n in range(1,discs+1): mask[:,58-9*n:61-9*n,5:12],mask[:,53-9*n:58-9*n,5:12] = 200+n,n
    mask[:,8:58,14:17] = 100
    return Volume(image.data.astype(np.float32), image.affine), Volume(mask+0, image.affine)

def save(root, stem, image, mask, axes=((0,1),(1,1),(2,1))):
    for part,v in (('images',image),('masks',mask)):
        if v is not None: write_image(Volume(v.data, v.affine, dict(axes=[list(a) for a in axes])), root/part/f'{stem}.mha')

@pytest.fixture(scope='session')
def sound(tmp_path_factory):
    root = tmp_path_factory.mktemp('spider'); overview,gradings = [],[]
    for patient in (3,12,40):
        for i,kind in enumerate(('t1','t2')):
            image,mask = spine(10*patient+i); mask.data[0,0,i] = 100; save(root, f'{patient}_{kind}', image, mask)
            overview.append(dict(new_file_name=f'{patient}_{kind}', num_vertebrae=5, num_discs=5, sex='F', subset='validation' if patient==40 else 'training'))
        gradings += [dict(zip(GRADINGS, (patient,d,0,0,0,0,0,1,1,3))) for d in range(1,6)]
    pd.DataFrame(overview).to_csv(root/'overview.csv', index=False); pd.DataFrame(gradings).to_csv(root/'radiological_gradings.csv', index=False)
    return root

def edit(root, name, old, new, n=1):
    path = root/f'{name}.csv'; text = path.read_text(); assert old in text; path.write_text(text.replace(old, new, n))
def change(root, stem, image=lambda v: v, mask=lambda v: v, axes=((0,1),(1,1),(2,1))):
    "Rewrite a series after changing its volumes in place."
    a,b = (read_image(root/p/f'{stem}.mha','sagittal') for p in ('images','masks')); a.data,b.data = a.data.copy(),b.data.copy(); image(a); mask(b); save(root, stem, a, b, axes)
def turn(v): v.affine = v.affine @ np.diag([1,-1,1,1.]); v.affine[2,3] -= 40
def drop(value): return lambda v: v.data.__setitem__(v.data==value, 0)
def squeeze(v): v.data[:] = np.clip(v.data, -1000, 3096); v.data.flat[0],v.data.flat[1] = -1000,3096
def stretch(v): v.affine = v.affine @ np.diag([1,1,1.25,1])
def pad(v): v.data[:,:45] = v.data.min()

FLAWS = [
    ('orders mixed', lambda r: change(r, '3_t1', axes=((2,1),(0,-1),(1,1))), 'note: axes in 2 orders: 5 '),
    ('scales mixed', lambda r: change(r, '3_t1', image=squeeze), 'note: two scales of brightness: 1 images span -1000 to 3096, 5 do not'),
    ('unequal pixels', lambda r: change(r, '3_t1', image=stretch, mask=stretch), 'note: series with unequal pixels: 1 (3_t1)'),
    ('padding', lambda r: change(r, '3_t1', image=pad), 'note: series that are more than half padding: 1 (3_t1)'),
    ('one outline for two series', lambda r: shutil.copy(r/'masks/3_t1.mha', r/'masks/3_t2.mha'), 'note: patients whose series have the very same mask: 1 (3)'),
    ('T1 only', lambda r: [(r/p/'12_t2.mha').unlink() for p in ('images','masks')], 'note: patients with T1 only: 1 (12)'),
    ('a listed series without a file', lambda r: [(r/p/'12_t2.mha').unlink() for p in ('images','masks')], 'missing: series of overview.csv without a file: 1 (12_t2)'),
    ('both sides of the split', lambda r: edit(r, 'overview', '3_t1,5,5,F,training', '3_t1,5,5,F,validation'), 'wrong: patients on both sides of the official split: 1 (3)'),
    ('other counts', lambda r: edit(r, 'overview', '3_t1,5,5', '3_t1,7,7'), 'wrong: numbers of vertebrae + discs that differ between overview.csv and the mask: 1 (3_t1: 7+7 in the table, 5+5 in the mask)'),
    ('a short volume', lambda r: change(r, '3_t1', *[lambda v: setattr(v,'data',v.data[:3])]*2), 'missing: 1 series hold fewer than 5 slices'),
    ('few discs', lambda r: save(r, '3_t1', *spine(1,3)), 'note: masks with fewer than five discs: 1 (3_t1)'),
    ('a disc left out', lambda r: change(r, '3_t1', mask=drop(203)), 'wrong: masks in which a disc number is left out: 1 (3_t1)'),
    ('no canal', lambda r: change(r, '3_t1', mask=drop(100)), 'wrong: masks without a canal: 1 (3_t1)'),
    ('upside down', lambda r: change(r, '3_t1', image=turn, mask=turn), 'wrong: masks with disc 1 on top (upside down, or numbered from the top): 1 (3_t1)'),
    ('IVD label 0', lambda r: edit(r, 'radiological_gradings', '3,5,0', '3,0,0'), 'wrong: gradings of disc 0, which does not exist, dropped: 1 (patients 3)'),
    ('a disc without a grading', lambda r: edit(r, 'radiological_gradings', '3,5,0', '3,0,0'), 'missing: discs of a mask without a grading: 1 (patient 3 disc 5)'),
    ('a grading without a disc', lambda r: edit(r, 'radiological_gradings', '3,5,0', '3,9,0'), 'wrong: gradings of a disc that no mask of the patient holds: 1 (patient 3 disc 9)'),
    ('a patient without gradings', lambda r: [edit(r, 'radiological_gradings', f'12,{d},', f'13,{d},') for d in range(1,6)], 'missing: patients without gradings: 1 (12)'),
    ('a row that is there twice', lambda r: edit(r, 'radiological_gradings', '3,5,0,0,0,0,0,1,1,3\n', '3,5,0,0,0,0,0,1,1,3\n'*2), 'wrong: radiological_gradings.csv: rows that repeat another one, left out: 1 (7)'),
    ('a cut mask', lambda r: (r/'masks/3_t1.mha').write_bytes((r/'masks/3_t1.mha').read_bytes()[:500]), 'wrong: not a readable image (the packed voxels are cut off or too many): 3_t1.mha'),
    ('a squeezed mask', lambda r: change(r, '3_t1', mask=lambda v: v.data.__setitem__(slice(None), (v.data>0)*255)), 'wrong: mask values that SPIDER does not use (255): 3_t1.mha'),
    ('another grid', lambda r: change(r, '3_t1', mask=stretch), 'wrong: 3_t1 is skipped: mask and image differ in geometry'),
    ('no mask', lambda r: (r/'masks/3_t1.mha').unlink(), 'missing: series without a mask: 1 of 6'),
]

def findings(lines): return [l for l in lines if l.startswith(('wrong: ','missing: ','note: '))]
def test_a_sound_folder_has_no_findings(sound): assert findings(check_spider(sound))==[]

@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('name,plant,words', FLAWS, ids=[f[0] for f in FLAWS])
def test_each_flaw_is_found_by_rule(sound, tmp_path, name, plant, words):
    root = shutil.copytree(sound, tmp_path/'spider'); plant(root)
    found = [l for l in findings(check_spider(root)) if l.startswith(words)]
    assert len(found)==1, findings(check_spider(root))
    assert '\n' not in found[0] and str(root) not in found[0]

@pytest.mark.parametrize('name,old,new,words', [('overview','3_t2,5','3_t1,5',"row 3 describes 3_t1 again, otherwise"), ('overview','training','trianing',"row 2, column subset: unknown subset: 'trianing'"),
    ('radiological_gradings','3,5,0','3,4,0','.*row 6 grades disc 4 of patient 3'), ('radiological_gradings','3,1,0','3,1,4',"row 2, column Modic: not a grade: '4'"), ('radiological_gradings','3,1,0','3,1.5,0',"row 2, column IVD label: not a grade: '1.5'"),
    ('radiological_gradings','3,1,0,0,0,0,0,1,1,3','3,1,0,0,0,0,0,1,1,3,','row 2 has 11 cells and the header 10')])
def test_wrong_cells_are_named(sound, tmp_path, name, old, new, words):
    root = shutil.copytree(sound, tmp_path/'spider')
    if 'again' in words: edit(root, name, '3_t2,5,5,F', '3_t1,5,5,M')
    elif 'grades disc' in words: edit(root, name, '3,5,0,0,0,0,0,1,1,3', '3,4,0,0,0,0,0,1,1,4')
    else: edit(root, name, old, new)
    with pytest.raises(InputError, match=words) as e: SpiderSet(root)
    assert f'{name}.csv' in str(e.value)

# Mutated tables

@pytest.mark.parametrize('seed', range(int(os.environ.get('LUMBAR_FUZZ', 200))//100))
def test_mutated_tables_are_read_as_they_stand_or_refused(sound, tmp_path, seed):
    "A hundred tables a seed; LUMBAR_FUZZ=2000 is the long run."
    from lumbar_nbdev.spider import _gradings,_overview
    rng,read,refused = random.Random(seed),0,0
    readers = dict(overview=_overview, radiological_gradings=_gradings); texts = {n: (sound/f'{n}.csv').read_text().strip('\n') for n in readers}
    for _ in range(100):
        name = rng.choice(sorted(readers)); path = tmp_path/f'{name}.csv'
        path.write_bytes(mutate(rng, texts[name]).encode('utf-8','surrogatepass')); begin = time.perf_counter()
        try: table = readers[name](path, [])
        except InputError as e: refused += 1; assert name in str(e) and '\n' not in str(e)
        else:
            read += 1; rows = said(path)
            if name=='overview': assert set(table.new_file_name)=={r['new_file_name'] for r in rows} and table.astype(str).to_dict('records')==[dict(r) for r in {tuple(r.items()): r for r in rows}.values()]
            else: assert set(table.itertuples(index=False, name=None))=={tuple(int(float(r[c])) for c in GRADINGS) for r in rows if float(r['IVD label'])}
        assert time.perf_counter()-begin<2
    print(f'{read} read as they stand, {refused} refused')
    assert read>15 and refused>20
