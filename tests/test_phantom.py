"Phantom studies: what they record, what was painted, and how other programs read their files."
import re,shutil,subprocess
from dataclasses import replace
import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
from lumbar_nbdev.cohort import Cohort
from lumbar_nbdev.core import *
from lumbar_nbdev.metric import write_oracle
from lumbar_nbdev.phantom import *
from lumbar_nbdev.volume import read_image,write_image

@pytest.fixture(scope='session')
def folder(): return phantom_cohort(6, seed=7)

@pytest.fixture(scope='session')
def study(): return phantom_study(7, 0)

def needs(program): return pytest.mark.skipif(shutil.which(program) is None, reason=f"{program} is not installed")

# What other programs read

def test_simpleitk_agrees_with_every_affine_and_grey_value(folder):
    cohort,seen = Cohort(folder/'rsna'),0
    for study in cohort.studies[:4]:
        for v in cohort.volumes(study):
            path = cohort.series_path(study, v.meta['series_id'])
            if len(v.data)<3: continue
            image = sitk.ReadImage([str(path/f'{n}.dcm') for n in v.meta['instances']]) # a series may hold a tilted block too
            assert image.GetSize()[::-1]==v.shape and np.array_equal(sitk.GetArrayFromImage(image), np.asarray(v.data))
            for voxel in np.indices((2,2,2)).reshape(3,-1).T*(np.array(v.shape)-1):
                theirs = image.TransformContinuousIndexToPhysicalPoint([float(i) for i in voxel[::-1]])
                assert np.abs(np.array(theirs)-v.to_world(voxel)).max()<2e-3
            seen += 1
    assert seen>=12

@needs('dcm2niix')
def test_dcm2niix_has_nothing_to_say_about_geometry(folder, tmp_path):
    cohort = Cohort(folder/'rsna')
    done = subprocess.run(['dcm2niix','-o',tmp_path,'-f','%s_%t_%d_%j',folder/'rsna/train_images'], capture_output=True, text=True)
    said = {l for l in (done.stdout+done.stderr).splitlines() if 'arning' in l or 'rror' in l}
    harmless = ('manufacturer', 'Slice orientation varies', 'missing images', 'nstance number', 'stack with unknown') # tilted blocks and skipped numbers are meant
    assert done.returncode==0 and all(any(h in l for h in harmless) for l in said), said
    assert len(list(tmp_path.glob('*.nii*')))>=len(cohort.series)

@needs('dciodvfy')
def test_the_standard_finds_no_error(folder):
    for series in sorted((folder/'rsna/train_images').glob('*/*'))[:12]:
        said = subprocess.run(['dciodvfy', next(series.iterdir())], capture_output=True, text=True)
        assert not re.search('^Error', said.stdout+said.stderr, re.M), said.stderr

# What is written

def test_truth_holds_everything_and_the_oracle_reads_it(folder):
    truth = pd.read_csv(folder/'rsna/truth.csv', keep_default_na=False)
    assert (truth.groupby('study_id').size()==25).all() and np.allclose(truth[['p_normal_mild','p_moderate','p_severe']].astype(float).sum(axis=1), 1)
    wanted = 'size_mm x_mm y_mm z_mm tilt_deg pfirrmann disc_height_mm bulge_mm protrusion_mm slip_mm modic schmorl_below schmorl_above osteophyte_mm facet_mm flavum_mm lumbar_vertebrae haemangioma cobb_deg lordosis_deg conus_mm marrow_fat muscle_fat age sex severity'
    assert set(wanted.split())<=set(truth)
    write_oracle(folder/'rsna')
    assert list(pd.read_csv(folder/'rsna/oracle_submission.csv').row_id)==list(pd.read_csv(folder/'rsna/sample_submission.csv').row_id)

def test_any_number_of_workers_writes_the_same_bytes(tmp_path):
    a,b = write_cohort(tmp_path/'a', 2, 11, workers=1), write_cohort(tmp_path/'b', 2, 11, workers=2)
    files = sorted(p.relative_to(a) for p in a.rglob('*') if p.is_file())
    assert files==sorted(p.relative_to(b) for p in b.rglob('*') if p.is_file()) and len(files)>100
    assert all((a/f).read_bytes()==(b/f).read_bytes() for f in files)

@pytest.mark.parametrize('stretched', [True,False])
def test_spider_pairs_follow_both_conventions(study, tmp_path, stretched):
    v = study.series[0]
    for name,o in zip(('image','mask'), spider_pair(v, study.mask, stretched)): write_image(o, tmp_path/f'{name}.mha')
    image,mask = (read_image(tmp_path/f'{n}.mha', 'sagittal') for n in ('image','mask'))
    assert np.allclose(image.affine, v.affine, atol=1e-6) and image.shape==mask.shape==v.shape
    assert image.meta['axes'][0][0]==(2 if stretched else 0), "LPS files have their sagittal slices on the last axis, PIR files on the first"
    assert ((image.data.min(),image.data.max())==(-1000,3096))==stretched and (stretched or np.array_equal(image.data, v.data))
    assert set(np.unique(mask.data))<={0,*range(1,10),CANAL,*range(201,210)}

# What is painted

def fine_axial(a, level, sheets=1):
    "A very fine axial slice through a disc, and the canvas's coordinates."
    curve = spine_curve(a); k = DISCS[level]; t = curve.at(curve.tilt, curve.discs[k])
    steps = np.array([[0,np.sin(t),-np.cos(t)],[0,np.cos(t),np.sin(t)],[1.,0,0]])
    affine = stack_affine(bend(curve, 0, 20, curve.discs[k]), steps, (1,.25,.25), (1,280,320))
    return Canvas(a, curve, affine, (1,280,320), 1, sheets, tissue_signals(a, Scanner(jitter=0.), ('t1','t2'))).paint_all()

@pytest.mark.parametrize('mm', [4,6,8,10,12])
def test_the_sac_is_as_deep_as_the_truth_says(mm):
    a = sample_anatomy(3, 4); sizes = a.sizes.copy(); sizes[0,2] = mm; sizes[3:,2] = 5
    a = replace(a, sizes=sizes, protrusion=a.protrusion*0, cobb=0., slip=a.slip*0)
    canvas = fine_axial(a, 'l3_l4')
    middle = np.abs(canvas.x[0]).argmin(1)[0]
    assert abs((canvas.mask[0,:,middle]==CANAL).sum()*.25-mm)<.8

def test_fat_goes_as_a_foramen_narrows():
    a,fat = sample_anatomy(3, 4),[]
    for rim in (3.5,1.5,.3,-.8):
        sizes = a.sizes.copy(); sizes[1] = rim; b = replace(a, sizes=sizes); curve = spine_curve(b)
        p = place_of(b, curve, 'left_neural_foraminal_narrowing', 'l3_l4')
        affine = stack_affine(p, np.array([[1.,0,0],[0,0,-1],[0,1,0]]), (1,.4,.4), (1,50,40))
        canvas = Canvas(b, curve, affine, (1,50,40), 1, 1, tissue_signals(b, Scanner(jitter=0.), ('t1',))).paint_all()
        fat.append(float((canvas.data[1][0]>.9)[10:40,8:32].mean()))
    assert fat[0]>fat[1]>fat[2]>fat[3]-1e-9 and fat[0]>3*fat[3]

def test_left_is_left_and_levels_go_up(study):
    truth = study.truth.set_index(['condition','level'])
    for c in ('neural_foraminal_narrowing','subarticular_stenosis'): assert (truth.loc[f'left_{c}'].x_mm-truth.loc[f'right_{c}'].x_mm>15).all()
    assert (np.diff(truth.loc['spinal_canal_stenosis'].z_mm)<0).all()
    heights = [study.mask.to_world(np.argwhere(study.mask.data==v)).mean(0)[2] for v in (201,1,202,2,203,3,204,4,205,5)]
    assert (np.diff(heights)>0).all()
    for t in study.truth[study.truth.condition=='spinal_canal_stenosis'].itertuples():
        k,i,j = study.mask.to_voxel([t.x_mm,t.y_mm,t.z_mm]).round().astype(int)
        assert study.mask.data[k,i-1:i+2,j-1:j+2].max()==CANAL

@pytest.mark.parametrize('slipped,most', [(False,1.),(True,2.)]) # worst behind L5/S1, where the bend is sharpest; a slip shifts everything within a few mm
def test_straight_and_bent_are_inverse_where_places_lie(slipped, most):
    for a in (sample_anatomy(5, i) for i in range(20)):
        curve = spine_curve(a if slipped else replace(a, slip=a.slip*0)); s = np.linspace(curve.discs[LOWEST-1], curve.bodies[-1], 50)
        for r in (-15.,0,20):
            _,y,z = bend(curve, 0, r, s); back = np.stack(straighten(curve, y, z))
            gap = np.abs(back-np.stack([np.full(50,r),s]))
            assert gap.max()<most and np.median(gap)<.05

def test_the_randomised_mode_changes_pictures_not_anatomy(study):
    wild = phantom_study(7, 0, randomised=True)
    assert np.array_equal(wild.anatomy.sizes, study.anatomy.sizes) and not np.array_equal(wild.series[0].data, study.series[0].data)
    assert set(np.unique(wild.mask.data))==set(np.unique(study.mask.data))

def test_the_same_numbers_give_the_same_study(study):
    again = phantom_study(7, 0)
    assert all(np.array_equal(a.data, b.data) and a.meta==b.meta for a,b in zip(study.series, again.series)) and again.points.equals(study.points)

def test_rare_findings_come_up():
    patients = [sample_anatomy(1, i) for i in range(600)]
    share = lambda f: np.mean([bool(f(a)) for a in patients])
    assert .04<share(lambda a: a.lumbar!=5)<.12 and {a.lumbar for a in patients}=={4,5,6}
    for rare in (lambda a: a.slip.any(), lambda a: a.protrusion.any(), lambda a: (a.protrusion>6).any(), lambda a: a.schmorl.any(), lambda a: a.haemangioma>=0, lambda a: abs(a.cobb)>10): assert .02<share(rare)<1
    assert {int(m) for a in patients for m in a.modic}=={0,1,2,3}
