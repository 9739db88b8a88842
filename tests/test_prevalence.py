"The laws of labels and of what a study holds, against the published figures and against slow references."
from collections import Counter
import numpy as np
import pytest
from hypothesis import given,settings,strategies as st
from scipy.integrate import quad
from scipy.stats import norm,spearmanr
from sklearn.metrics import cohen_kappa_score
from lumbar_nbdev.core import CONDITIONS,GROUPS,GROUP_SERIES,LEVELS,PLACES,condition_group
from lumbar_nbdev.prevalence import *

GROUP = [condition_group(c) for c in CONDITIONS]
ROWS = {g: [i for i,o in enumerate(GROUP) if o==g] for g in GROUPS}

@pytest.fixture(scope='module')
def drawn():
    "2,000 patients and two readings of them."
    rng = np.random.default_rng(42)
    sizes = sample_sizes(rng, 2000)
    return sizes, draw_grades(sizes, rng), draw_grades(sizes, rng)

@pytest.fixture(scope='module')
def many():
    "100,000 patients and two readings of them."
    rng = np.random.default_rng(7)
    sizes = sample_sizes(rng, 100_000)
    return sizes, draw_grades(sizes, rng), draw_grades(sizes, rng)

@pytest.fixture(scope='module')
def plans(): return [sample_plan(np.random.default_rng([42,i])) for i in range(4000)]

def shares(grades): return np.stack([(grades==k).mean(0).reshape(-1) for k in range(3)], -1)
def whole(grades): return 100*np.array([(grades[:,0]==2).any(1).mean(), (grades==2).any((1,2)).mean(), (grades==0).all((1,2)).mean()])

def test_shares_of_grades(drawn, many):
    assert PREVALENCE.index.tolist()==PLACES
    assert np.abs(shares(drawn[1])-PREVALENCE.to_numpy()).max()<.015 # the sample that the chapter shows
    assert np.abs(shares(many[1])-PREVALENCE.to_numpy()).max()<.0065 # the law: four standard errors of one half

def test_shares_of_studies(drawn, many):
    assert np.abs(whole(drawn[1])-[18.5,49.6,12.4]).max()<1.5
    assert np.abs(whole(many[1])-[18.5,49.6,12.4]).max()<.8

def test_likeness_of_places(many):
    g = many[1]
    for a,b,published in ((0,3,.51),(0,4,.51),(3,4,.56),(1,2,.42),(0,1,.27),(0,2,.27)):
        assert abs(spearmanr(g[:,a].reshape(-1), g[:,b].reshape(-1))[0]-published)<.02, (a,b)
    assert abs((g[:,1,0]==g[:,2,0]).mean()-.94)<.015 and abs((g[:,3,3]==g[:,4,3]).mean()-.59)<.015
    for c in range(5): # neighbours are more alike than levels further apart
        near,far = (np.mean([spearmanr(g[:20000,c,i], g[:20000,c,i+step])[0] for i in range(5-step)]) for step in (1,3))
        assert .15<near<.5 and far<near, c

def test_agreement_of_readers(many):
    _,a,b = many
    for g,published in dict(spinal=.70, foraminal=.54, subarticular=.32).items():
        assert abs(cohen_kappa_score(a[:20000,ROWS[g]].reshape(-1), b[:20000,ROWS[g]].reshape(-1))-published)<.015, g

def test_a_leaning_is_shared_by_the_whole_reading():
    mm = np.broadcast_to(np.array([[8.],[.3],[.3],[2.5],[2.5]]), (4000,5,5)) # a coin toss for severe at every place
    severe = draw_grades(mm, np.random.default_rng(0))==2
    rho = lambda a,b: np.corrcoef(a,b)[0,1]
    assert abs(severe.mean()-.5)<.02
    assert rho(severe[:,0,0], severe[:,0,4])>rho(severe[:,3,0], severe[:,3,4])>.3 and rho(severe[:,0,0], severe[:,4,4])>.3
    means = severe.mean((1,2))
    assert (means<.1).mean()>.1 and (means>.9).mean()>.1 # readers that call nearly everything, or nearly nothing, severe

@settings(max_examples=50, deadline=None)
@given(u=st.floats(-6,6), group=st.sampled_from(GROUPS))
def test_sizes_and_narrowing_are_each_others_inverse(u, group):
    k,mm = SIZES.loc[group], size_mm(u, group)
    assert k.least_mm<mm<k.most_mm and abs(narrowing(mm, group)-u)<1e-4
    assert size_mm(u+.1, group)<mm
    p = grade_probabilities(mm, group)
    assert abs(p.sum()-1)<1e-12 and (p>=0).all()

def test_impossible_sizes_have_odds_too():
    for g in GROUPS:
        assert np.isfinite(grade_probabilities([-1e9,1e9], g)).all() and grade_probabilities(-1e9,g)[2]>.99 and grade_probabilities(1e9,g)[0]>.99
        for name,u in (('moderate_mm',0),('severe_mm',1)): assert abs(narrowing(SIZES.loc[g,name], g)-u)<1e-12

@pytest.mark.parametrize('group', GROUPS)
def test_worst_odds_equal_slow_integrals(group):
    for u in np.random.default_rng(3).normal(-.5, 1.2, (6,5)):
        got = worst_odds(size_mm(u, group), group)
        none = lambda cut: quad(lambda z: norm.pdf(z)*norm.cdf((cut-u-READER.leaning_sd[group]*z)/READER.slip_sd[group]).prod(), -8, 8, epsabs=1e-10, limit=400)[0]
        np.testing.assert_allclose(got, [none(0), none(1)-none(0), 1-none(1)], atol=2e-6)

def test_odds_are_those_of_the_readings(drawn):
    sizes = drawn[0][:3]
    truth = truth_odds(sizes, [11,22,33])
    assert truth.columns.tolist()==['study_id','condition','level','size_mm','p_normal_mild','p_moderate','p_severe','worst_normal_mild','worst_moderate','worst_severe']
    assert truth.study_id.tolist()==[11]*25+[22]*25+[33]*25 and list(zip(truth.condition,truth.level))==PLACES*3
    read = draw_grades(np.broadcast_to(sizes, (8000,3,5,5)), np.random.default_rng(1))
    for k,c in enumerate(('normal_mild','moderate','severe')):
        np.testing.assert_allclose((read==k).mean(0).reshape(-1), truth[f'p_{c}'], atol=.025)
        np.testing.assert_allclose((read.max(-1)==k).mean(0).repeat(5), truth[f'worst_{c}'], atol=.025)

def test_the_same_seed_gives_the_same_patient():
    one,many = sample_sizes(np.random.default_rng(5)), sample_sizes(np.random.default_rng(5), 1)
    assert one.shape==(5,5) and (many[0]==one).all() and (sample_sizes(np.random.default_rng(6))!=one).all()
    assert (draw_grades(one, np.random.default_rng(1))==draw_grades(many, np.random.default_rng(1))[0]).all()
    a,b = (sample_plan(np.random.default_rng([1,2])) for _ in range(2))
    assert a.series==b.series and all((getattr(a,k)==getattr(b,k)).all() for k in ('labelled','marked','off'))

def test_plans_make_sense(plans):
    for p in plans:
        for c in range(5):
            kinds = {p.series[i].kind for i in p.marked[c] if i>=0}
            assert kinds<={GROUP_SERIES[GROUP[c]]}
        for s in p.series:
            numbers = s.instances
            assert len(numbers)==s.slices==len(set(numbers)) and min(numbers)==s.first_number>=1 and type(s.rising) is bool
            assert (np.diff(numbers)>0).all()==s.rising or s.slices==1
            assert max(numbers)-min(numbers)==s.slices-1+(s.gap>0) and 0<=s.gap<s.slices
            assert all(0<=top<=bottom<=4 and n>0 for top,bottom,n in s.blocks) and 224<=s.rows<=1024 and 224<=s.columns<=1024
            assert s.slices*s.step_mm<231 and (140 if s.kind=='Axial T2' else 200)-.5<s.columns*s.pixel_mm<401
            if s.kind!='Axial T2': assert s.blocks==((0,4,s.slices),)
            else:
                covered = {l for top,bottom,_ in s.blocks for l in range(top,bottom+1)}
                for l in set(range(5))-covered: # what the stack misses has no label and no point, and the stack stays clear of its disc
                    assert not p.labelled[3:,l].any() and (p.marked[3:,l]<0).all()
                    assert all(abs((top+bottom)/2-l)*35>n*s.step_mm/2 for top,bottom,n in s.blocks)
                assert covered==set(range(min(covered),max(covered)+1))

def test_what_is_missing(plans):
    n = len(plans)
    lab,mark = np.stack([p.labelled for p in plans]),np.stack([p.marked for p in plans])
    kinds = [Counter(s.kind for s in p.series) for p in plans]
    def near(got, published, of=1975, clump=1): # four standard deviations of both counts, clumped ones wider
        assert abs(got/n-published/of)<4*np.sqrt(clump*max(published,1)/of*(1/n+1/of)), (got*of/n, published)
    for k,v in ((3,1632),(4,309),(5,30),(6,1),(2,3)): near(sum(c.total()==k for c in kinds), v)
    for k,v in enumerate((1640,306,28,1), 1): near(sum(c['Axial T2']==k for c in kinds), v)
    near(sum(c['Sagittal T1']==2 for c in kinds), 7); near(sum(c['Sagittal T1']==0 for c in kinds), 2); near(sum(c['Sagittal T2/STIR']==0 for c in kinds), 1)
    near((~lab).sum(), 572, clump=8); near((~lab).any((1,2)).sum(), 185)
    for side,counts in ((3,{0:164,1:82,4:11}),(4,{0:161,1:82,4:7})):
        for l,v in counts.items(): near((~lab[:,side,l]).sum(), v)
    near((lab & (mark<0))[:,0].sum(), 117); near((lab & (mark<0))[:,1:3].sum(), 11, clump=10); near((lab & (mark<0))[:,3:].sum(), 18, clump=10)
    near((~lab & (mark>=0))[:,2].sum(), 30, clump=5); near((~lab & (mark>=0))[:,3].sum(), 5, clump=5)
    assert ((~lab & (mark>=0))[:,[0,1,4]]).sum()==0
    axial = [next(s for s in p.series if s.kind=='Axial T2') for p in plans]
    near(sum(s.first_number>1 for s in axial), 13); near(sum(s.rising for s in axial), .88*1975); near(sum(p.series[0].rising for p in plans), .64*1975)
    near(sum(s.gap>0 for p in plans for s in p.series), 11); near(sum(not p.off[0].any() for p in plans), .78*1975)
    pairs = (mark[:,3]>=0) & (mark[:,4]>=0); same = pairs & (mark[:,3]==mark[:,4]); off = np.abs(np.stack([p.off[4] for p in plans]))
    for got,want in (((pairs & ~same).sum(), 8.7), ((same & (off==0)).sum(), 57), ((same & (off==1)).sum(), 31)): assert abs(100*got/pairs.sum()-want)<1.5

def test_how_series_are_taken(plans):
    for kind,published in {'Sagittal T1': (17,21,4.52,4.48,.68,.68), 'Sagittal T2/STIR': (17,22,4.52,4.48,.65,.58), 'Axial T2': (29,55,4.59,4.40,.47,.43)}.items():
        n,step,pixel = np.array([(s.slices, s.step_mm, s.pixel_mm) for p in plans for s in p.series if s.kind==kind]).T
        got = np.median(n), np.percentile(n,95), step.mean(), np.median(step), pixel.mean(), np.median(pixel)
        np.testing.assert_allclose(got, published, rtol=.06, err_msg=kind)
    for kind,square in {'Sagittal T1': {512:41,384:18,320:16,256:6}, 'Sagittal T2/STIR': {512:25,320:21,448:15,384:11,576:3}}.items():
        sizes = Counter((s.rows,s.columns) for p in plans for s in p.series if s.kind==kind)
        for side,percent in square.items(): assert abs(100*sizes[side,side]/sizes.total()-percent)<2.5, (kind,side)
        assert abs(100*sum(v for (r,c),v in sizes.items() if r!=c)/sizes.total()-14)<2
