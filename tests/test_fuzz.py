"A few hundred mutated DICOM and MetaImage files; `python tests/fuzz.py` runs thousands."
import warnings
import pydicom,pytest
from fuzz import Fuzzer
from lumbar_nbdev.core import log

FOUND = [(0,760), (0,2972), (1,1068), (1,1350), (1,2047), (1,3261), (1,7467), (1,20056), (2,23542), (3,20933), (4,3854), (4,6012)] # Seed and number of files that were once read wrong

@pytest.fixture(autouse=True)
def _quiet():
    log.setLevel('CRITICAL'); pydicom.config.logger.setLevel('CRITICAL')
    with warnings.catch_warnings(): warnings.simplefilter('ignore'); yield
    log.setLevel('NOTSET'); pydicom.config.logger.setLevel('WARNING')

@pytest.mark.parametrize('seed', [0,1,2,3,4])
def test_mutated_files_are_read_right_or_refused(tmp_path, seed):
    fuzzer = Fuzzer(tmp_path, seed)
    made = {n: fuzzer.case(n) for n in [n for s,n in FOUND if s==seed]+list(range(120))}
    assert {n: m for n,m in made.items() if m[1] not in ('read','refused')}=={}
    assert min(sum(what==w for _,what in made.values()) for w in ('read','refused'))>30, "neither all good nor all bad"
