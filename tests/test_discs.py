"What the notebook on discs cannot show: points that are wrong in every way, odd series, damaged models, and the figures on real masks."
import json,shutil,tracemalloc
from dataclasses import replace
import numpy as np
import pandas as pd
import pytest,torch
from hypothesis import given,settings as how,strategies as st
from lumbar_nbdev import discs
from lumbar_nbdev.cohort import Cohort
from lumbar_nbdev.core import *
from lumbar_nbdev.discs import *
from lumbar_nbdev.phantom import phantom_cohort
from lumbar_nbdev.segmenter import packaged_segmenter
from lumbar_nbdev.spider import SpiderSet
from lumbar_nbdev.volume import Volume,make_affine,normalise,read_image
from helpers import REAL,quiet

@pytest.fixture(scope='module')
def folder(): return phantom_cohort(8)
@pytest.fixture(scope='module')
def segmenter(): return DiscSegmenter.load()
@pytest.fixture
def cohort(folder):
    c = Cohort(folder/'rsna', 'train')
    return c.keep(c.studies[:1])

def spine(levels=LEVELS, step=34, x=0): return pd.DataFrame([(x, 20+3*LEVELS.index(l), -step*LEVELS.index(l)) for l in levels], list(levels), ['wx','wy','wz'], dtype=float)
def given_points(points, condition='spinal_canal_stenosis'): return points.rename_axis('level').reset_index().assign(condition=condition)

class Circle:
    "In the network's place: a round disc in the middle of each picture."
    def __call__(self, picture, places, slices):
        inside = torch.from_numpy((FRONT[None]**2+RISE[:,None]**2<100).astype(np.float32))
        return torch.stack([1-inside, inside, 0*inside, 0*inside])[None].repeat(len(places),1,1,1)

@pytest.mark.parametrize('levels', [LEVELS, LEVELS[::-1], LEVELS[2:4], LEVELS[:1], LEVELS[4:], ('l1_l2','l5_s1')])
def test_any_number_of_points(levels):
    points,problems = canal_points(given_points(spine(levels)))
    assert set(points.index)==set(levels) and not problems
    places = disc_places(points)
    assert list(places.index)==[l for l in LEVELS if l in levels] and np.isfinite(places.to_numpy(float)).all()
    assert (places.y<points.wy[places.index]).all() and np.allclose(np.hypot(places.uy,places.uz),1)

def test_order_of_kinds():
    "The canal first, then the foramina, then the recesses; left and right alone are put back to the midline."
    canal,one = spine(LEVELS[:2]), given_points(spine(LEVELS[1:3], x=17), 'left_neural_foraminal_narrowing')
    recess = [given_points(spine(LEVELS[1:], x=s*9.5), f'{n}_subarticular_stenosis') for n,s in (('left',1),('right',-1))]
    points,problems = canal_points(pd.concat([given_points(canal), one, *recess]))
    assert points.kind.tolist()==['spinal','spinal','foraminal','subarticular','subarticular'] and not problems
    assert np.allclose(points.wx.astype(float), 0)

@pytest.mark.parametrize('i', range(4))
def test_swapped_neighbours_are_left_out(i):
    p = spine(); a,b = LEVELS[i:i+2]
    p.loc[[a,b]] = p.loc[[b,a]].to_numpy()
    points,problems = canal_points(given_points(p))
    assert not {a,b}<=set(points.index) and set(LEVELS)-{a,b}<=set(points.index) and len(problems)==1

@pytest.mark.parametrize('p', [spine()*0, spine(step=-34), spine(step=2), spine(step=900), spine(LEVELS[:2])*0])
def test_hopeless_points(p):
    points,problems = canal_points(given_points(p))
    assert not len(points) and 'do not go down' in problems[0]
    with pytest.raises(InputError, match='no points'): disc_places(points)

@how(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(CONDITIONS), st.sampled_from(LEVELS), *[st.floats(allow_nan=True, width=32)|st.floats(-200,200)]*3), max_size=25))
def test_any_points(rows):
    points,_ = canal_points(pd.DataFrame(rows, columns=['condition','level','wx','wy','wz']))
    if len(points): assert np.isfinite(disc_places(points).to_numpy(float)).all()

def broken(cohort, how):
    p = cohort.coordinates.copy(); canal = p.condition=='spinal_canal_stenosis'
    if how=='nan': p.loc[canal, 'x'] = np.nan
    if how=='outside': p.loc[canal, ['x','y']] = (1e6,-1e6)
    if how=='one place': p.loc[canal, ['x','y']] = 100.
    if how=='swapped': p.loc[canal, 'level'] = p.level[canal].map(dict(zip(LEVELS, LEVELS[::-1])))
    if how=='no slice': p.loc[canal, 'instance_number'] = 999
    if how=='no series': p.loc[canal, 'series_id'] = 1
    if how=='one left': p = p[(p.condition=='right_neural_foraminal_narrowing')&(p.level=='l3_l4')]
    cohort.coordinates = p
    return cohort

@pytest.mark.parametrize('how', ['nan','outside','one place','swapped','no slice','no series','one left'])
def test_bad_canal_points_fall_back(cohort, tmp_path, how):
    table = discs_from_cohort(broken(cohort, how), tmp_path, Circle())
    assert set(table.points)=={'foraminal'} and len(table)==(1 if how=='one left' else 5)
    if how!='one left': assert any(str(cohort.studies[0]) in p and 'left out' in p for p in cohort.problems), cohort.problems
    labels = np.unique(read_image(tmp_path/f'{cohort.studies[0]}.mha').data)
    assert set(labels)=={0,*(DISC_LABELS[l] for l in table.level)}

def test_one_bad_study_does_not_stop_the_others(folder, tmp_path):
    cohort = Cohort(folder/'rsna', 'train'); cohort = cohort.keep(cohort.studies[:3])
    a,b,c = cohort.studies; p = cohort.coordinates.copy()
    p.loc[p.study_id==a, ['x','y']] = 50.
    cohort.coordinates = p[p.study_id!=b]
    table = discs_from_cohort(cohort, tmp_path/'out', Circle())
    assert set(table.study_id)=={c} and sorted(f.name for f in (tmp_path/'out').iterdir())==[f'{c}.mha','discs.csv']
    assert all(any(str(s) in q for q in cohort.problems) for s in (a,b)) and len(pd.read_csv(tmp_path/'out'/'discs.csv'))==len(table)

def test_no_believable_point_at_all(cohort, tmp_path):
    cohort.coordinates = cohort.coordinates.assign(x=5., y=5.)
    with pytest.raises(InputError, match='not one study'): discs_from_cohort(cohort, tmp_path/'out', Circle())
    cohort.coordinates = None
    with pytest.raises(InputError, match='no coordinates'): discs_from_cohort(cohort, tmp_path/'out', Circle())

def test_a_folder_that_cannot_be_written(cohort, tmp_path):
    "It is the folder that is blamed, at the first study, not the points."
    (tmp_path/'out').write_text('a file')
    with pytest.raises(InputError, match='cannot write'): discs_from_cohort(cohort, tmp_path/'out', Circle())
    assert not any('gets no disc mask' in p for p in cohort.problems)

def sagittal(data, mm=.7): return Volume(data, make_affine((0,-mm*data.shape[2]/2,mm*data.shape[1]/2), (4.4,0,0), (0,0,-mm), (0,mm,0)), {})

@pytest.mark.parametrize('data', [np.zeros((1,64,64)), np.full((1,300,20), np.nan), np.full((3,40,40), 7, np.uint16), np.random.default_rng(0).normal(size=(1,2000,2000))])
def test_odd_series(segmenter, data):
    "Flat, not a number, tiny, huge: an answer, and no brightness where there is no contrast."
    v = sagittal(data); places = disc_places(spine(LEVELS[1:3], 34)-[0,0,-50])
    chances = segmenter(replace(v, data=normalise(v.data)), places, [0]*2)
    assert torch.isfinite(chances).all()
    for (_,p),c in zip(places.iterrows(), chances):
        box,found = paste_disc(v, p, c[1:2]); assert found.shape[1:]==tuple(s.stop-s.start for s in box)
        sizes = measure_disc(disc_pictures(v, places.iloc[:1], [0])[0].numpy(), c)
        assert sizes['area_mm2']>=0
        if np.ptp(np.nan_to_num(data))==0: assert np.isnan(sizes['signal_to_csf']) or sizes['signal_to_csf']==1

def test_oblique_and_flipped_series(folder):
    "The same disc from a series stored upside down and back to front lies at the same place."
    image,mask = SpiderSet(folder/'spider').load('1_t2'); k = len(mask.data)//2
    places = disc_places(mask_points(mask, k))
    flip = lambda v: Volume(v.data[:,::-1,::-1], make_affine(v.to_world([0,v.shape[1]-1,v.shape[2]-1]), v.affine[:3,0], -v.affine[:3,1], -v.affine[:3,2]), {})
    a,b = (disc_pictures(v, places, [k]*len(places)) for v in (image,flip(image)))
    assert torch.allclose(a, b, atol=1e-2*float(a.max()))
    p,chance = places.iloc[2], (a[2:3]>a.median()).float()
    (box,x),(xob,y) = paste_disc(image, p, chance), paste_disc(flip(image), p, chance)
    whole = np.zeros(mask.shape[1:]); whole[box] = x[0]; other = np.zeros(mask.shape[1:]); other[xob] = y[0]
    assert np.abs(whole-other[::-1,::-1]).max()<1e-3

def test_a_place_beside_the_picture():
    v = sagittal(np.ones((1,64,64), np.float32)); places = disc_places(spine()+[0,5000,0])
    assert not disc_pictures(v, places, [0]*5).any()
    box,found = paste_disc(v, places.iloc[0], torch.ones(1,96,144)); assert found.size==0

def test_measures_of_a_drawn_disc():
    "A disc of 36 x 8 mm between two square bodies, whose back sticks out by 3 mm."
    u,v = FRONT[None],RISE[:,None]; part = np.zeros((96,144), int)
    part[(np.abs(u)<=16.5)&(np.abs(v)<22)] = 2
    part[(u<=16.5)&(u>=-19.5)&(np.abs(v)<=4)] = 1
    part[(u<-22)&(u>-34)&(np.abs(v)<99)] = 3
    grey = np.where(part==1, 40., np.where(part==3, 100., 60.))
    m = measure_disc(grey, np.eye(4)[part].transpose(2,0,1))
    assert np.allclose([m['height_front_mm'],m['height_middle_mm'],m['height_back_mm']], 8, atol=.6) and abs(m['depth_mm']-36)<.8 and abs(m['area_mm2']-288)<15
    assert abs(m['bulge_mm']-3)<.6 and abs(m['signal_to_csf']-.4)<1e-6 and abs(m['turn_deg'])<1
    flat = measure_disc(grey, np.eye(4)[np.where(part==2,0,part)].transpose(2,0,1)); assert np.isnan(flat['bulge_mm'])

def test_a_parabola_that_turns_back():
    "Steps of 56 and 16 mm are both possible; the curve through them points down at its end, the discs must not."
    places = disc_places(pd.DataFrame(dict(wx=0., wy=(0.,6.,9.), wz=(0.,-56.,-72.)), LEVELS[2:]))
    assert (places.uz>.5).all() and places.spacing.between(16,56).all()
    assert np.isfinite(fit_to_edges(torch.rand(3,ROWS,COLUMNS, generator=torch.Generator().manual_seed(0)), places).to_numpy()).all()

@pytest.mark.parametrize('side', [dict(wz=-34.), dict(wx=33.)])
def test_left_and_right_that_contradict(side):
    "One side clicked a level too low, or both on the same side: their mean would lie in a vertebra, or beside the spine."
    left,right = (given_points(spine(x=s*17), f'{n}_neural_foraminal_narrowing') for n,s in (('left',1),('right',-1)))
    for axis,mm in side.items(): right.loc[right.level=='l3_l4', axis] += mm
    points,problems = canal_points(pd.concat([left,right]))
    assert list(points.index)==[l for l in LEVELS if l!='l3_l4'] and len(problems)==1 and 'L3/L4' in problems[0]

def test_a_point_given_twice():
    "Twice at one place is once; at two levels, the mean would lie in a vertebra."
    once = given_points(spine()); again = once[2:3]
    assert canal_points(pd.concat([once,again]))[0].equals(canal_points(once)[0])
    points,problems = canal_points(pd.concat([once, again.assign(wz=again.wz-34)]))
    assert list(points.index)==[l for l in LEVELS if l!='l3_l4'] and 'L3/L4' in problems[0]

def test_kinds_that_contradict():
    "A lone point in the canal, named L1/L2 but clicked at L4/L5, does not bend the curve of four good ones."
    lone = given_points(spine(LEVELS[3:4])).assign(level='l1_l2')
    points,problems = canal_points(pd.concat([lone, given_points(spine(LEVELS[1:], x=17), 'left_neural_foraminal_narrowing')]))
    assert list(points.index)==list(LEVELS[1:]) and 'different kinds' in problems[0] and 'L1/L2' in problems[0]

def drawn_on(monkeypatch, volume, points):
    "What `study_discs` makes of points on a volume."
    monkeypatch.setattr(discs, 'study_points', lambda cohort, study: (volume, points.assign(kind='spinal'), []))
    return study_discs(None, 1, Circle())

def oblique(degrees=15, slices=15, size=300, mm=.9):
    "An empty sagittal series round 0, turned about the body's long axis."
    c,s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    steps = np.array([(4.4*c,4.4*s,0), (0,0,-mm), (-mm*s,mm*c,0)])
    return Volume(np.zeros((slices,size,size), np.uint16), make_affine(-(np.array([slices,size,size])-1)/2@steps, *steps), dict(series_id=1, series_type='Sagittal T2/STIR'))

def test_an_oblique_series(monkeypatch):
    "The slices near a disc are told by their distance there, not at the picture's corner; made points lie on their slice."
    volume = oblique(); points = (spine()-[0,0,-68]).assign(wx=0.)
    mask,table,problems = drawn_on(monkeypatch, volume, points)
    for level in LEVELS:
        k = np.flatnonzero((mask.data==DISC_LABELS[level]).any((1,2))); assert len(k)>=10 and abs(k.mean()-7)<=1.5, (level,k)
    for k in (3,7): assert np.allclose(volume.to_voxel(mask_points(mask, k)[['wx','wy','wz']].to_numpy())[:,0], k)
    assert not problems and len(table)==5

def test_discs_beside_the_series(monkeypatch):
    "A disc below the last row, or 30 mm beside the last slice, gets no row of made-up measures."
    low = replace(oblique(0), data=np.zeros((15,170,300), np.uint16)); points = (spine()-[0,0,-68]).assign(wx=0.)
    mask,table,problems = drawn_on(monkeypatch, low, points)
    assert table.level.tolist()==list(LEVELS[:3]) and len(problems)==2 and 'L5/S1' in problems[1] and set(np.unique(mask.data))=={0,203,204,205}
    with pytest.raises(InputError, match='beside the series'): drawn_on(monkeypatch, oblique(0, slices=1), points.assign(wx=30.))
    assert len(drawn_on(monkeypatch, oblique(0, slices=1), points.assign(wx=3.))[1])==5

def test_many_discs_of_a_huge_slice():
    "A slice of 2,000 x 2,000 px is not copied for each disc."
    volume = sagittal(np.zeros((1,2000,2000), np.uint16), .2); places = disc_places(spine()).iloc[[0]*12]
    tracemalloc.start(); small = disc_pictures(volume, places, [0]*12); peak = tracemalloc.get_traced_memory()[1]; tracemalloc.stop()
    assert small.shape==(12,ROWS,COLUMNS) and peak<8e7

def test_the_series_that_holds_the_points():
    "Without points in the canal: the T2 of the lumbar spine, not that of the thoracic; better a T1 that holds them than a T2 that does not."
    low,high = oblique(0),oblique(0); high.affine[2,3] += 400
    named = lambda v, i, kind: replace(v, meta=dict(series_id=i, series_type=kind))
    a,b,c = named(high,1,'Sagittal T2/STIR'), named(low,2,'Sagittal T2/STIR'), named(low,3,'Sagittal T1')
    points = (spine()-[0,0,-68]).assign(wx=0.); none = points[:0].assign(series_id=0)
    assert discs._series_to_draw_on(none, points, [a,c,b]) is b and discs._series_to_draw_on(none, points, [a,c]) is c
    assert discs._series_to_draw_on(points.assign(series_id=3), points, [a,b,c]) is c

def test_a_disc_bent_up_behind():
    "The corner below is sought below even where the whole back of a disc lies above its axis."
    u,v = np.broadcast_arrays(FRONT[None], RISE[:,None])
    lift = np.clip(-u-6,0,None)*.6
    disc,bone = (np.abs(u)<17)&(np.abs(v-lift)<3), (np.abs(u)<17)&(np.abs(v-lift)>4)&(np.abs(v-lift)<20)
    above,below = discs._corners(u, v, disc, bone, -17)
    assert above[1]>v[disc&(u<-9)].max()-1 and below[1]<v[disc&(u<-9)].min()+1

@pytest.mark.parametrize('damage', ['card','weights','other'])
def test_damaged_model(segmenter, tmp_path, damage):
    segmenter.save(tmp_path)
    if damage=='card': (tmp_path/'discs.json').write_text('{')
    if damage=='weights': (tmp_path/'discs.safetensors').write_bytes(b'x'*100)
    if damage=='other': (tmp_path/'discs.json').write_text(json.dumps(json.loads((tmp_path/'discs.json').read_text())|dict(kind='grader')))
    with pytest.raises(ModelError): DiscSegmenter.load(tmp_path)

def test_judging_knows_the_truth(folder):
    "A method that is told the truth scores near 1, one that draws nothing 0."
    pair = SpiderSet(folder/'spider').load('2_t2')
    told = lambda picture,mask,places,k: (disc_pictures(mask, places, [k]*len(places), 'nearest')==torch.tensor([DISC_LABELS[l] for l in places.index])[:,None,None]).float()
    t = mean_over_patients(judge_discs([pair], {'told': told, 'nothing': lambda p,m,places,k: torch.zeros(len(places),96,144)}, slices=lambda m: [len(m.data)//2]))
    assert t.dice['told']>.94 and t.surface_mm['told']<.15 and t.height_mm['told']<.3 and t.dice['nothing']==0

def one_disc_each(folder, patients):
    "Pairs of one slice."
    pairs = [SpiderSet(folder/'spider').load(f'{i}_t2') for i in patients]
    return [(i.slab(k, k+1), m.slab(k, k+1)) for i,m in pairs for k in [len(m.data)//2]]

def test_gap_between_found_vertebrae(folder):
    "A segmenter that is told the truth makes the gap of true vertebrae; one that finds none draws nothing or what is usual."
    pair, = one_disc_each(folder, [2])
    class Told:
        def classes(self, volume): return replace(volume, data=((pair[1].data>0)&(pair[1].data<CANAL)).astype(np.uint8))
    class Blind:
        def classes(self, volume): return replace(volume, data=np.zeros(volume.shape, np.uint8))
    t = judge_discs([pair], {'told': gap_method(Told()), 'blind': gap_method(Blind())}).set_index(['level','method']).dice.unstack()
    assert t.told.mean()>.75 and (t.blind<t.told).all()

class Least(np.random.Generator):
    "Always the least of what may come."
    def random(self): return .99
    def uniform(self, low, high, n=None): return low if n is None else np.full(n, low)

def test_a_lesson_of_two_discs(folder):
    "Two levels in a slice, a fifth of them to be shown: one is, not none."
    (image,mask,points), = disc_examples(one_disc_each(folder, [1]))
    x,y = draw_examples((image,mask,points[:2]), Least(np.random.PCG64(0)))
    assert len(x)==len(y)==1 and (y==1).any()

@pytest.fixture
def one_slice_folder(folder, tmp_path):
    "A SPIDER folder of two patients with one slice each; also a T1, which the lessons leave out."
    from lumbar_nbdev.volume import write_image
    for i,(image,mask) in enumerate(one_disc_each(folder, [1,2]), 1):
        for kind in ('t1','t2'): write_image(image, tmp_path/'spider'/'images'/f'{i}_{kind}.mha'); write_image(mask, tmp_path/'spider'/'masks'/f'{i}_{kind}.mha')
    return tmp_path/'spider'

def test_fewer_patients_than_folds(one_slice_folder):
    data = SpiderSet(one_slice_folder); torch.manual_seed(0)
    real = {s: disc_examples([pair]) for s,*pair in data.pairs(['1_t2','2_t2'])}
    table = cross_validate_discs(disc_net(pretrained=False), data, real, real['1_t2'], steps=2)
    assert set(table.patient)=={1,2} and set(table.method)=={'network'}

def test_the_whole_making(one_slice_folder, tmp_path):
    "Two batches a lesson: the card is JSON that any reader takes, and names what was really used."
    card = train_discs(one_slice_folder, tmp_path/'out', patients=1, lessons=(2,2))
    said = json.loads((tmp_path/'out'/'discs.json').read_text(), parse_constant=lambda c: pytest.fail(f'{c} is no JSON'))
    assert card['trained_on']=='1 phantom patients, then 2 SPIDER patients, 2 real T2 slices' and said['cross_validated']['discs']==card['cross_validated']['discs']>8
    DiscSegmenter.load(tmp_path/'out')
    (one_slice_folder/'masks'/'2_t2.mha').unlink()
    with pytest.raises(InputError, match='too few patients'): train_discs(one_slice_folder, tmp_path/'out', patients=0)

def cut_off(cohort, out, after, segmenter, monkeypatch):
    "A run that ends while its study number `after` is drawn."
    real,seen = discs.study_discs, []
    def until(*a):
        seen.append(a)
        if len(seen)>after: raise KeyboardInterrupt
        return real(*a)
    with monkeypatch.context() as m:
        m.setattr(discs, 'study_discs', until)
        with pytest.raises(KeyboardInterrupt): discs_from_cohort(cohort, out, segmenter)

def test_a_run_cut_off_leaves_no_table(folder, segmenter, tmp_path, monkeypatch):
    "An older table never stands beside newer masks, and a study that can no longer be drawn loses its mask."
    cohort = Cohort(folder/'rsna', 'train'); cohort = cohort.keep(cohort.studies[:2]); a,b = cohort.studies
    first = discs_from_cohort(cohort, tmp_path, segmenter)
    cut_off(cohort, tmp_path, 1, segmenter, monkeypatch)
    assert not (tmp_path/'discs.csv').exists() and (tmp_path/f'{a}.mha').exists()
    assert discs_from_cohort(cohort, tmp_path, segmenter).equals(first) and (tmp_path/'discs.csv').exists()
    cohort.coordinates = cohort.coordinates[cohort.coordinates.study_id==a]
    assert set(discs_from_cohort(cohort, tmp_path, segmenter).study_id)=={a} and not (tmp_path/f'{b}.mha').exists()

def test_signal_only_on_t2(folder, segmenter):
    "On a T1 fluid is dark, and a share of it would say nothing."
    cohort = Cohort(folder/'rsna', 'train'); study = cohort.studies[0]
    def of(kinds):
        part = cohort.keep([study]); t = part.series
        part.series = t[t.series_description.isin(kinds)]; part.coordinates = part.coordinates[part.coordinates.series_id.isin(part.series.series_id)]
        return study_discs(part, study, segmenter)[1]
    assert of(['Sagittal T2/STIR']).signal_to_csf.notna().all()
    t1 = of(['Sagittal T1'])
    assert t1.signal_to_csf.isna().all() and t1.height_middle_mm.notna().all() and set(t1.series_type)=={'Sagittal T1'}

def test_places_are_those_of_the_drawn_discs(folder, segmenter):
    "x, y, z of the table lie in the middle of the disc in the mask."
    cohort = Cohort(folder/'rsna', 'train')
    mask,table,_ = study_discs(cohort, cohort.studies[0], segmenter)
    for r in table.itertuples():
        k,_ = mask.nearest_slice([r.x_mm,r.y_mm,r.z_mm])
        middle = mask.to_world(np.r_[k, np.argwhere(mask.data[k]==DISC_LABELS[r.level]).mean(0)])
        assert np.hypot(*(middle-[r.x_mm,r.y_mm,r.z_mm])[1:])<.7

@pytest.mark.skipif(not (REAL/'spider_mini').is_dir(), reason="no real masks in ../shared/data/spider_mini")
def test_real_figures(segmenter):
    "The table of the notebook, measured again; the shipped network has seen these slices, so it only must do no worse than its cross-validation."
    data = SpiderSet(REAL/'spider_mini')
    pairs = [(i,m) for _,i,m in data.pairs(data.series.stem)]
    t = mean_over_patients(judge_discs(pairs, {**METHODS, 'gap (segmented bone)': gap_method(packaged_segmenter('phantom')), 'network': network_method(segmenter)}))
    said = {'prior': .437, 'edges': .485, 'flood': .492, 'gap (true bone)': .607, 'gap (segmented bone)': .607}
    for name,dice in said.items(): assert abs(t.dice[name]-dice)<.006, (name, t.dice[name])
    assert t.dice['prior']+.05<t.dice['gap (segmented bone)']<t.dice['network']
    assert t.dice['network']>segmenter.card['cross_validated']['dice']-.01
