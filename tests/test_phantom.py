"Phantom series as other programs read them, and the tables beside them."
import shutil,subprocess
import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
from lumbar_nbdev.cohort import Cohort
from lumbar_nbdev.metric import write_oracle
from lumbar_nbdev.phantom import phantom_cohort

@pytest.fixture(scope='session')
def folder(): return phantom_cohort(6, seed=7)

def test_simpleitk_agrees_with_every_affine(folder):
    cohort,seen = Cohort(folder/'rsna'),0
    for study in cohort.studies:
        for v in cohort.volumes(study):
            files = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(cohort.series_path(study, v.meta['series_id'])))
            image = sitk.ReadImage(files)
            assert image.GetSize()[::-1]==v.shape
            for voxel in ((0,0,0),(v.shape[0]-1,0,0),(0,v.shape[1]-1,0),(0,0,v.shape[2]-1),tuple(n-1 for n in v.shape)):
                ours = v.to_world(voxel)
                theirs = np.array([image.TransformContinuousIndexToPhysicalPoint([float(i) for i in voxel[::-1]]),
                                   image.TransformContinuousIndexToPhysicalPoint([float(voxel[2]),float(voxel[1]),float(v.shape[0]-1-voxel[0])])])
                assert np.abs(theirs-ours).max(1).min()<1e-3 # the slice order may be reversed, never the place
            array,flipped = sitk.GetArrayFromImage(image),np.abs(np.array(image.TransformIndexToPhysicalPoint((0,0,0)))-v.to_world((0,0,0))).max()>1e-3
            assert (array[::-1] if flipped else array).astype(int).tolist()[0][0][:50]==np.asarray(v.data)[0][0][:50].astype(int).tolist()
            seen += 1
    assert seen>=18

@pytest.mark.skipif(shutil.which('dcm2niix') is None, reason="dcm2niix is not installed")
def test_dcm2niix_has_nothing_to_say_about_geometry(folder, tmp_path):
    done = subprocess.run(['dcm2niix','-o',tmp_path,'-f','%s_%t_%d',folder/'rsna/train_images'], capture_output=True, text=True)
    warnings = {l for l in (done.stdout+done.stderr).splitlines() if 'arning' in l or 'rror' in l}
    assert done.returncode==0 and all('manufacturer' in w for w in warnings), warnings
    assert len(list(tmp_path.glob('*.nii*')))==len(Cohort(folder/'rsna').series)

def test_truth_and_oracle(folder):
    truth = pd.read_csv(folder/'rsna/truth.csv')
    p = truth[['p_normal_mild','p_moderate','p_severe']]
    assert (truth.groupby('study_id').size()==25).all() and np.allclose(p.sum(axis=1), 1) and truth[['size_mm','tilt_deg']].notna().all(axis=None)
    write_oracle(folder/'rsna')
    oracle = pd.read_csv(folder/'rsna/oracle_submission.csv')
    assert list(oracle.row_id)==list(pd.read_csv(folder/'rsna/sample_submission.csv').row_id)
