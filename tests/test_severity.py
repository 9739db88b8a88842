"Finding places, cutting crops, grading: what the notebooks cannot show."
import json,os,shutil,signal
from dataclasses import replace
from pathlib import Path
import numpy as np
import pandas as pd
import pydicom,pytest,torch
from helpers import *
from lumbar_nbdev import keypoints,scale,severity
from lumbar_nbdev.cohort import Cohort
from lumbar_nbdev.core import *
from lumbar_nbdev.crops import DEPTH,PIXEL,SIDE,SLICES,Crops,crop_axes,cut,study_crops
from lumbar_nbdev.evaluation import answered,bootstrap_scores,grade_table,study_costs
from lumbar_nbdev.keypoints import SavedFinder,packaged_finder,train_finder
from lumbar_nbdev.landmarks import best_volume,place_errors
from lumbar_nbdev.metric import prior_submission,sample_rows,score
from lumbar_nbdev.phantom import phantom_study,write_cohort
from lumbar_nbdev.scale import predict_folder
from lumbar_nbdev.severity import CropSet,Grader,SavedGrader,grader_logits,occlusion_map,pick_slices,teach_grader
from lumbar_nbdev.submission import Predictor

ANSWERS = list(SUBMISSION_COLUMNS)

@pytest.fixture(scope='module')
def folder(tmp_path_factory): return write_cohort(tmp_path_factory.mktemp('severity')/'cohort', 2, 5, 1)

@pytest.fixture(scope='module')
def cohort(folder): return Cohort(folder/'rsna')

@pytest.fixture(scope='module')
def predictor(): return Predictor(settings('quick'))

class Changed:
    "A cohort whose volumes are changed on the way."
    problems = ()
    def __init__(self, cohort, change): self.cohort,self.change = cohort,change
    def volumes(self, study): return self.change(self.cohort.volumes(study))

def in_mirror(volume): return Volume(volume.data, np.diag([-1.,1,1,1])@volume.affine, {k: v for k,v in volume.meta.items() if k!='range'})

def by_place(rows): return rows.set_index(['condition','level'])[ANSWERS]

def test_mirrored_study_swaps_left_and_right(cohort, predictor):
    study = cohort.studies[0]
    with scale.one_thread(): plain,turned = (by_place(predictor(Changed(cohort, f), study).rows) for f in (lambda v: v, lambda v: [in_mirror(o) for o in v]))
    other = lambda c: c.replace('left','LEFT').replace('right','left').replace('LEFT','right')
    swapped = turned.rename(index=other, level='condition').loc[plain.index]
    sides = [c for c in CONDITIONS if condition_side(c)]
    test = plain.loc[sides].to_numpy(), swapped.loc[sides].to_numpy()
    assert np.abs(test[0]-test[1]).max()<.03
    assert np.abs(plain.loc[[c for c in CONDITIONS if 'left' in c]].to_numpy()-plain.loc[[c for c in CONDITIONS if 'right' in c]].to_numpy()).max()>.1, "a study whose sides are alike proves nothing"

def test_shuffled_instance_numbers_change_nothing(folder, cohort, predictor, tmp_path):
    study = cohort.studies[0]
    root = shutil.copytree(folder/'rsna', tmp_path/'rsna')
    rng = np.random.default_rng(0)
    for series in (root/'train_images'/str(study)).iterdir():
        files = sorted(series.glob('*.dcm'))
        for f,n in zip(files, rng.permutation(len(files))):
            ds = pydicom.dcmread(f); ds.InstanceNumber = int(n)+1; ds.save_as(series/f'{n+1}.new')
        for f in files: f.unlink()
        for f in series.glob('*.new'): f.rename(f.with_suffix('.dcm'))
    with scale.one_thread(): a,b = (predictor(c, study).rows for c in (cohort, Cohort(root)))
    pd.testing.assert_frame_equal(a, b)

@pytest.mark.parametrize('kind', SERIES_TYPES)
def test_each_series_missing_in_turn(cohort, predictor, kind):
    study = cohort.studies[0]
    result = predictor(Changed(cohort, lambda vs: [v for v in vs if v.meta['series_type']!=kind]), study)
    assert result.rows.row_id.tolist()==sample_rows([study]).row_id.tolist()
    np.testing.assert_allclose(result.rows[ANSWERS].sum(axis=1), 1, atol=1e-9)
    assert any(f'no {kind} series' in n for n in result.notes)
    rows = by_place(result.rows).assign(source=result.rows.set_index(['condition','level']).source)
    if kind=='Axial T2': assert set(rows[rows.index.get_level_values(0).str.contains('subarticular')].source)=={'prior'}
    assert 'grader' in set(rows.source)

def test_no_series_at_all(cohort, predictor):
    result = predictor(Changed(cohort, lambda vs: []), cohort.studies[0])
    pd.testing.assert_frame_equal(result.rows[['row_id',*ANSWERS]], prior_submission([cohort.studies[0]], predictor.grader.priors))

@pytest.mark.parametrize('value', (0, np.nan))
def test_empty_pictures(cohort, predictor, value):
    def change(vs): return [Volume(np.full(v.shape, value, np.float32), v.affine, {k: x for k,x in v.meta.items() if k!='range'}) for v in vs]
    result = predictor(Changed(cohort, change), cohort.studies[0])
    assert len(result.rows)==25 and np.isfinite(result.rows[ANSWERS].to_numpy()).all()

def test_same_bytes_with_any_number_of_workers(tmp_path):
    cohort = Cohort(write_cohort(tmp_path/'cohort', 8, 5, 2)/'rsna')
    said = []
    for n in (1,2):
        predict_folder(cohort, tmp_path/f'out{n}', replace(settings('quick'), workers=n))
        said.append((tmp_path/f'out{n}'/'submission.csv').read_bytes())
    assert said[0]==said[1]
    assert sorted(p.name for p in (tmp_path/'out2').iterdir())==['report','submission.csv']
    assert len(pd.read_csv(tmp_path/'out2'/'submission.csv'))==200

def test_killed_run_goes_on(cohort, tmp_path, monkeypatch):
    real,graded = scale.grade_study, []
    def dies(predictor, c, folder, study):
        if graded: raise KeyboardInterrupt
        graded.append(study); return real(predictor, c, folder, study)
    monkeypatch.setattr(scale, 'grade_study', dies)
    with pytest.raises(KeyboardInterrupt): predict_folder(cohort, tmp_path/'out', settings('quick'))
    assert not (tmp_path/'out'/'submission.csv').exists()
    looked = []
    def again(predictor, c, folder, study):
        looked.append((study, (folder/f'{study}.json').exists())); return real(predictor, c, folder, study)
    monkeypatch.setattr(scale, 'grade_study', again)
    table = predict_folder(cohort, tmp_path/'out', settings('quick'))
    assert looked==[(cohort.studies[0],True),(cohort.studies[1],False)]
    monkeypatch.setattr(scale, 'grade_study', real)
    whole = predict_folder(cohort, tmp_path/'whole', settings('quick'))
    pd.testing.assert_frame_equal(table, whole)

def fall(run, models): os.kill(os.getpid(), signal.SIGKILL)
def test_killed_worker_ends_with_a_sentence(cohort, tmp_path, monkeypatch):
    many = Cohort(cohort.path); many.studies = cohort.studies*4
    monkeypatch.setattr(scale, '_begin', fall)
    with pytest.raises(LumbarError, match='a worker process was killed.*run the same command again'): predict_folder(many, tmp_path/'out', replace(settings('quick'), workers=2))
    assert not (tmp_path/'out'/'submission.csv').exists()

def made_crops(n=60, seed=0):
    "Crops of noise whose brightness tells the grade."
    rng = np.random.default_rng(seed)
    grade,place = rng.integers(0, 3, n), rng.integers(0, 25, n)
    pictures = (rng.integers(0, 60, (n,SLICES,SIDE,SIDE))+80*grade[:,None,None,None]).astype(np.uint8)
    table = pd.DataFrame(dict(study_id=np.arange(n)//5+1, condition=[PLACES[k][0] for k in place], level=[PLACES[k][1] for k in place], severity=grade)).drop_duplicates(['study_id','condition','level'])
    return Crops(pictures, rng.normal(0, 5, (n,SLICES)).astype(np.float32), np.ones((n,SLICES), bool), table)[table.index.to_numpy()] if len(table)==n else made_crops(n, seed+1)

def test_killed_training_ends_where_an_undisturbed_one_does(tmp_path, monkeypatch):
    train,watch,run = made_crops(), made_crops(20, 50), replace(settings('quick'), grader_epochs=3, grader_batch=12)
    priors = np.full((25,3), 1/3)
    teach_grader(train, watch, priors, run, tmp_path/'whole')
    def stop(self):
        if self.epoch==1: raise KeyboardInterrupt
    monkeypatch.setattr(severity.LookCB, 'before_epoch', stop, raising=False)
    with pytest.raises(KeyboardInterrupt): teach_grader(train, watch, priors, run, tmp_path/'cut')
    monkeypatch.delattr(severity.LookCB, 'before_epoch')
    teach_grader(train, watch, priors, run, tmp_path/'cut')
    a,b = (pd.read_csv(tmp_path/k/'training.csv') for k in ('whole','cut'))
    assert len(a)==3; np.testing.assert_allclose(a, b, atol=1e-3)

def test_killed_finder_training_goes_on(tmp_path, monkeypatch):
    def made(n, seed):
        crops = made_crops(n, seed); steps = np.random.default_rng(seed).normal(0, 3, (n,3))
        return replace(crops, places=crops.places.reset_index(drop=True).join(pd.DataFrame(steps, columns=['through','down','across'])))
    train,watch,run = made(24, 0), made(10, 50), replace(settings('quick'), finder_epochs=3, grader_batch=12)
    whole = keypoints.teach_finder(train, watch, run, tmp_path/'whole')[1]
    def stop(self):
        if self.epoch==1: raise KeyboardInterrupt
    monkeypatch.setattr(keypoints.SmallCB, 'before_epoch', stop, raising=False)
    with pytest.raises(KeyboardInterrupt): keypoints.teach_finder(train, watch, run, tmp_path/'cut')
    monkeypatch.delattr(keypoints.SmallCB, 'before_epoch')
    cut = keypoints.teach_finder(train, watch, run, tmp_path/'cut')[1]
    assert len(whole)==3; np.testing.assert_allclose(whole, cut, atol=1e-3)
    again = keypoints.teach_finder(train, watch, run, tmp_path/'cut')[1] # all epochs are done
    np.testing.assert_allclose(cut, again)

def test_slices_stacked_askew_are_cut_upright():
    upright,askew = axial(5, (0,0,0)), axial(5, (0,0,0))
    askew.affine[:3,0] += [0,2,0]; askew.affine[:3,3] -= [0,4,0]
    marked = np.array([3.,-5.,4.])
    for v in (upright,askew): v.data[:] = 0; k,r,c = v.to_voxel(marked).round().astype(int); v.data[k,r-1:r+2,c-1:c+2] = 99
    a,b = (cut(v, marked-[4,-2,4])[0] for v in (upright,askew))
    middles = [np.argwhere(x[3]>99)[:].mean(0) for x in (a,b)]
    assert np.abs(middles[0]-middles[1]).max()*PIXEL<=1

def test_missing_slices_weigh_nothing_and_change_nothing():
    torch.manual_seed(0)
    net,crops = Grader(pretrained=False), made_crops(6)
    torch.nn.init.normal_(net.heads.weight)
    crops.shown[:,:DEPTH['sagittal']] = False
    before,weights = grader_logits(net, CropSet(crops))
    assert (weights[:,:3]==0).all(); np.testing.assert_allclose(weights.sum(1), 1, atol=1e-6)
    crops.pictures[:,:DEPTH['sagittal']] = 77; crops.offset[:,:DEPTH['sagittal']] = 1e6
    np.testing.assert_allclose(before, grader_logits(net, CropSet(crops))[0], atol=1e-6)

def test_edge_of_a_stack_is_its_own_neighbour():
    crops = made_crops(1); crops.shown[:,4:DEPTH['sagittal']] = False
    x,offset,shown = pick_slices(crops)
    assert shown[0].tolist()==[True,True,False,True,True,True]
    assert (x[0,1,2]==crops.pictures[0,3]).all() and (x[0,1,0]==crops.pictures[0,2]).all()

def test_crops_of_volumes_seen_askew():
    study = phantom_study(9, 0)
    places = study.truth.rename(columns=dict(x_mm='wx', y_mm='wy', z_mm='wz'))
    def turned(v): # stored with rows and columns swapped and slices the other way round
        affine = v.affine.copy(); n = len(v.data)
        affine[:3,3] += affine[:3,0]*(n-1); affine[:3,0] *= -1; affine[:3,[1,2]] = affine[:3,[2,1]]
        return Volume(np.ascontiguousarray(v.data[::-1].swapaxes(1,2)), affine, {k: x for k,x in v.meta.items() if k!='range'})
    a,b = study_crops(study.series, places), study_crops([turned(v) for v in study.series], places)
    assert len(a)==len(b) and (a.shown==b.shown).mean()>.99
    np.testing.assert_allclose(a.offset, b.offset, atol=1e-3)
    assert np.abs(a.pictures.astype(int)-b.pictures)[a.shown & b.shown].mean()<1.5

def test_one_slice_and_a_place_outside():
    v = sagittal((1,40,40)); v.meta['series_type'] = 'Sagittal T1'
    pictures,offset,shown = cut(v, v.centre)
    assert shown.tolist()==[False]*3+[True]+[False]*3 and offset[3]==pytest.approx(0, abs=1e-3)
    assert best_volume([v], 'Sagittal T1', v.centre+[0,500,0]) is None

def axial(slices, middle, step=4., tilt=0., kind='Axial T2'):
    "An axial stack of 40 x 40 pixels of 2 mm around a point, tilted forward by some degrees."
    a = np.deg2rad(tilt)
    columns,rows,normal = np.array([2.,0,0]), 2*np.array([0,np.cos(a),np.sin(a)]), step*np.array([0,-np.sin(a),np.cos(a)])
    first = np.asarray(middle,float)-normal*(slices-1)/2-rows*19.5-columns*19.5
    return Volume(np.random.default_rng(0).integers(0, 99, (slices,40,40)).astype(np.uint16), make_affine(first, normal, rows, columns), dict(series_type=kind))

def test_places_are_carried_into_the_right_stack_by_geometry_alone():
    coarse,tilted,other = axial(9, (0,0,0), 10), axial(5, (3,2,1), 4, 25), axial(9, (0,0,0), 1, kind='Sagittal T1')
    stacks = [coarse,tilted,other]
    on_tilted = tilted.to_world([3,20,20])
    assert best_volume(stacks, 'Axial T2', on_tilted) is tilted
    assert tilted.nearest_slice(on_tilted)[0]==3
    assert best_volume(stacks, 'Axial T2', [0,0,30]) is coarse and coarse.nearest_slice([0,0,30])[0]==7
    assert best_volume(stacks, 'Axial T2', [0,0,-30]) is coarse
    assert best_volume(stacks, 'Axial T2', [0,0,60]) is None and best_volume([tilted], 'Axial T2', [0,0,30]) is None
    moved = on_tilted+1.4*tilted.normal
    pictures,offset,shown = cut(tilted, moved)
    assert shown.tolist()==[True,True,True,True,False] and offset[2]==pytest.approx(-1.4, abs=1e-3) # slices 1 to 4 and one that is not there
    assert crop_axes(tilted)[0]@tilted.normal==pytest.approx(1)

def test_mirrored_study_moves_the_places_to_mirrored_places(cohort, folder):
    finder = packaged_finder()
    volumes = [v for v in cohort.volumes(cohort.studies[0])]
    truth = pd.read_csv(folder/'rsna/truth.csv').query('study_id==@cohort.studies[0]')
    places = truth[['condition','level']].assign(wx=truth.x_mm+2, wy=truth.y_mm-2, wz=truth.z_mm+2, confidence=1.)
    other = lambda t: t.assign(wx=-t.wx, condition=[c.replace('left','LEFT').replace('right','left').replace('LEFT','right') for c in t.condition])
    a,b = finder(volumes, places), other(finder([in_mirror(v) for v in volumes], other(places)))
    sides = (a.condition.map(condition_side)!='').to_numpy()
    np.testing.assert_allclose(a[sides][['wx','wy','wz']], b[sides][['wx','wy','wz']], atol=.3)
    assert place_errors(a, truth).error_mm.median()<place_errors(places, truth).error_mm.median()/2

@pytest.mark.parametrize('value', (0, np.nan))
def test_finder_of_empty_pictures_stays_finite(cohort, value):
    finder,volumes = packaged_finder(), [Volume(np.full(v.shape, value, np.float32), v.affine, {k: x for k,x in v.meta.items() if k!='range'}) for v in cohort.volumes(cohort.studies[0])]
    places = pd.DataFrame([(c,l,*volumes[0].centre,1.) for c,l in PLACES], columns=['condition','level','wx','wy','wz','confidence'])
    moved = finder(volumes, places)
    assert np.isfinite(moved[['wx','wy','wz','confidence']].to_numpy(float)).all() and moved[['condition','level']].equals(places[['condition','level']])

def test_finder_learns_from_a_cohort_and_skips_what_cannot_be_read(folder, tmp_path):
    root = shutil.copytree(folder/'rsna', tmp_path/'rsna')
    card = train_finder(Cohort(root), tmp_path/'models', replace(settings('quick'), finder_epochs=1, holdout=.5))
    assert card['error_mm']<9 and SavedFinder(tmp_path/'models').card['trained_on'].startswith('1 studies')
    for d in (root/'train_images').iterdir(): shutil.rmtree(d)
    with pytest.raises(LumbarError): train_finder(Cohort(root), tmp_path/'none', settings('quick'))
    assert not (tmp_path/'none/finder.json').exists()

@pytest.mark.parametrize('change', (dict(kind='grader'), dict(look=[1,2]), dict(encoder=3), dict(weights='no')))
def test_foreign_finder(tmp_path, change):
    for s in ('json','safetensors'): shutil.copy(Path(keypoints.PACKAGED)/f'finder.{s}', tmp_path)
    card = json.loads((tmp_path/'finder.json').read_text()); (tmp_path/'finder.json').write_text(json.dumps(card|change))
    with pytest.raises(ModelError): SavedFinder(tmp_path)

def test_changed_files_are_graded_anew(folder, tmp_path, predictor):
    root = shutil.copytree(folder/'rsna', tmp_path/'rsna')
    cohort = Cohort(root); study = cohort.studies[0]
    kept = scale.grade_study(predictor, cohort, tmp_path/'done', study)
    first = kept.stat().st_mtime_ns
    assert scale.grade_study(predictor, cohort, tmp_path/'done', study).stat().st_mtime_ns==first
    next((root/'train_images'/str(study)).rglob('*.dcm')).unlink()
    assert scale.grade_study(predictor, Cohort(root), tmp_path/'done', study).stat().st_mtime_ns>first

@pytest.mark.parametrize('change', (dict(kind='segmenter'), dict(calibration=[1,2]), dict(calibration=[[0,0,0],[0,0]]), dict(calibration=[['a']*3]*3), dict(slices=[1,2,3]), dict(encoder=3), dict(weights='no')))
def test_foreign_card(tmp_path, change):
    for s in ('json','safetensors'): shutil.copy(Path(severity.PACKAGED)/f'grader.{s}', tmp_path)
    card = json.loads((tmp_path/'grader.json').read_text()); (tmp_path/'grader.json').write_text(json.dumps(card|change))
    with pytest.raises(ModelError): SavedGrader(tmp_path)

def test_a_grader_that_fails_costs_its_study_only(cohort, folder, tmp_path, monkeypatch):
    predictor = Predictor(settings('quick'))
    monkeypatch.setattr(SavedGrader, '__call__', lambda self, crops: 1/0)
    kept = json.loads(scale.grade_study(predictor, cohort, tmp_path, cohort.studies[0]).read_text())
    assert kept['page']['graded']==0 and any('a fault of ours' in n for n in kept['page']['notes'])

def test_too_little_to_train_a_grader_is_said_before_the_training(cohort, tmp_path):
    run = replace(settings('quick'), holdout=.5, grader_folds=4)
    with pytest.raises(InputError, match='1 studies cannot be cut into 4 folds'): severity.train_grader(cohort, tmp_path/'a', run)
    only = Cohort(cohort.path); only.labels = only.labels[only.labels.condition=='spinal_canal_stenosis']; only.coordinates = only.coordinates[only.coordinates.condition=='spinal_canal_stenosis']
    with pytest.raises(InputError, match="group 'foraminal'"): severity.train_grader(only, tmp_path/'b', replace(run, grader_folds=1))

def test_labels_that_the_score_refuses_are_refused_everywhere():
    sub,labels = prior_submission([1,2]), sample_rows([1,2])[['study_id','condition','level']].assign(severity=0.)
    assert len(answered(sub, labels.astype(dict(study_id=float))))==50
    with pytest.raises(InputError, match='severity'): answered(sub, labels.assign(severity=np.nan))
    with pytest.raises(InputError, match='repeated'): answered(sub, pd.concat([labels,labels]))
    with pytest.raises(InputError, match="group 'foraminal'"): study_costs(sub, labels[labels.condition=='spinal_canal_stenosis'])
    with pytest.raises(InputError): grade_table(answered(sub, labels)[:0])
    assert len(grade_table(answered(sub, labels), 'group'))==3
    some = labels[(labels.study_id==1)|(labels.condition!='spinal_canal_stenosis')]
    draws = bootstrap_scores(study_costs(sub, some), 200)
    np.testing.assert_allclose(draws, score(sub, some).total) # a draw without study 1 does not get its canals for nothing

def test_evaluation_of_odd_cohorts():
    rows = sample_rows([1,2])
    labels = rows[['study_id','condition','level']].assign(severity=0)
    sub = prior_submission([1,2])
    table = grade_table(answered(sub, labels), ['group'])
    assert table.auc_severe.isna().all() and table.severe_recall.isna().all() and np.isfinite(table.log_loss).all()
    costs = study_costs(sub, labels)
    assert (costs[0].sum(0)/costs[1].sum(0)).mean()==pytest.approx(score(sub, labels).total)
    some = labels[~((labels.study_id==1)&(labels.condition=='spinal_canal_stenosis'))]
    costs = study_costs(sub, some)
    assert costs[1][0,[0,3]].tolist()==[0,0] and (costs[0].sum(0)/costs[1].sum(0)).mean()==pytest.approx(score(sub, some).total)
    assert np.isfinite(bootstrap_scores(costs, 50)).all()
