"""Grading studies, stage by stage: seconds and memory a study, beside the same two networks run by a plain loop over pydicom.

    python benchmarks/predict.py [--studies 6]

The plain loop reads every file with pydicom, stacks the series, segments slice by slice, and cuts and grades one place at a time: what one would write in an afternoon. Both give the same kind of answer; both run in turns, each in a process of its own.
"""
import argparse,os,resource,subprocess,sys,tempfile,time
os.environ.setdefault('OMP_NUM_THREADS', '2'); os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')
from collections import defaultdict
from pathlib import Path

def clock(spent, name, work):
    t = time.perf_counter(); out = work(); spent[name] += time.perf_counter()-t
    return out

def ours(folder, spent):
    "The library's stages."
    from lumbar_nbdev.cohort import Cohort
    from lumbar_nbdev.core import settings
    from lumbar_nbdev.crops import study_crops
    from lumbar_nbdev.report import report_study
    from lumbar_nbdev.submission import Predictor,StudyResult
    cohort,predictor = Cohort(folder), Predictor(settings('cpu'))
    out = Path(tempfile.mkdtemp())
    for study in cohort.studies:
        result = StudyResult(study, predictor.prior_rows(study), None, clock(spent, 'read', lambda: cohort.volumes(study)))
        result.seen,result.mask,result.places = clock(spent, 'segment and find', lambda: predictor.find(result.volumes, result.notes))
        result.crops = clock(spent, 'cut', lambda: study_crops(result.volumes, result.places))
        answers,result.weights = clock(spent, 'grade', lambda: predictor.grader(result.crops))
        predictor.fill(result, answers)
        clock(spent, 'report', lambda: report_study(result, out))

def plain(folder, spent):
    "The same networks in a plain loop."
    import numpy as np, pandas as pd, pydicom
    from lumbar_nbdev.core import settings
    from lumbar_nbdev.crops import study_crops
    from lumbar_nbdev.submission import Predictor
    from lumbar_nbdev.volume import Volume
    predictor = Predictor(settings('cpu'))
    table = pd.read_csv(next(folder.glob('*_series_descriptions.csv')))
    def series(path, kind):
        files = sorted((pydicom.dcmread(f) for f in path.glob('*.dcm')), key=lambda d: np.dot(d.ImagePositionPatient, np.cross(d.ImageOrientationPatient[:3], d.ImageOrientationPatient[3:])))
        groups = defaultdict(list)
        for d in files: groups[tuple(np.round(np.array(d.ImageOrientationPatient, float), 2)),d.Rows,d.Columns].append(d)
        for g in groups.values():
            first,last = (np.array(d.ImagePositionPatient, float) for d in (g[0],g[-1]))
            o,s = np.array(g[0].ImageOrientationPatient, float), np.array(g[0].PixelSpacing, float)
            affine = np.eye(4); affine[:3,0] = (last-first)/max(len(g)-1,1); affine[:3,1] = o[3:]*s[0]; affine[:3,2] = o[:3]*s[1]; affine[:3,3] = first
            yield Volume(np.stack([d.pixel_array for d in g]).astype(np.float32), affine, dict(series_type=kind))
    for study,rows in table.groupby('study_id'):
        root = next(p for p in folder.glob(f'*_images/{study}'))
        volumes = clock(spent, 'read', lambda: [v for r in rows.itertuples() for v in series(root/str(r.series_id), r.series_description)])
        _,_,places = clock(spent, 'segment and find', lambda: predictor.find(volumes, []))
        for i in range(len(places)):
            crops = clock(spent, 'cut', lambda: study_crops(volumes, places.iloc[[i]]))
            if len(crops): clock(spent, 'grade', lambda: predictor.grader(crops))

def measured(way, folder):
    "One way's seconds a study and peak memory, in a process of its own."
    spent = defaultdict(float)
    {'ours': ours, 'plain': plain}[way](folder, spent)
    n = len(list(folder.glob('*_images/*')))
    print(','.join([f'{k}={v/n:.3f}' for k,v in spent.items()]+[f'memory={resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/1e6:.2f}']))

def main(studies):
    import pandas as pd
    from lumbar_nbdev.phantom import write_cohort
    folder = write_cohort(Path(tempfile.mkdtemp())/'cohort', studies, 11, 2)/'rsna'
    images = len(list(folder.rglob('*.dcm')))/studies
    rows = defaultdict(list)
    for k in range(3):
        for way in ('ours','plain'):
            out = subprocess.run([sys.executable, __file__, '--way', way, '--folder', folder], capture_output=True, text=True, check=True).stdout.strip().splitlines()[-1]
            rows[way].append({k: float(v) for k,v in (p.split('=') for p in out.split(','))})
    table = pd.DataFrame({w: pd.DataFrame(r).median() for w,r in rows.items()}).T
    table['all'] = table.drop(columns='memory').sum(axis=1)
    table = table[['read','segment and find','cut','grade','report','all','memory']].map(lambda v: '' if pd.isna(v) else f'{v:.2f}')
    print(f"{studies} phantom studies, {images:.0f} images a study; seconds a study, median of 3 turns; memory of the process in GB\n\n{table.to_string()}")
    print(f"\nAim: 4 s and 2 GB a study: {table['all']['ours']} s, {table.memory['ours']} GB")

if __name__=='__main__':
    p = argparse.ArgumentParser(); p.add_argument('--studies', type=int, default=6); p.add_argument('--way'); p.add_argument('--folder', type=Path)
    a = p.parse_args()
    measured(a.way, a.folder) if a.way else main(a.studies)
