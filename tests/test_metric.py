"Faults of submission files, and the score and the oracle against slow, plain references."
import itertools,math
import numpy as np
import pandas as pd
import pytest
from hypothesis import example,given,settings,strategies as st
from scipy.optimize import minimize
from lumbar_nbdev.core import GROUPS,SUBMISSION_COLUMNS,InputError,log
from lumbar_nbdev.metric import *
from lumbar_nbdev.prevalence import draw_grades,sample_sizes,truth_odds

NAMES = sample_rows([7]).row_id.tolist()
HEADER = 'row_id,normal_mild,moderate,severe'

def text(change=lambda lines: lines, eol='\n'):
    "A good submission of one study as text, with its list of lines changed."
    return eol.join(change([HEADER, *(f'{n},0.5,0.3,0.2' for n in NAMES)])) + eol

def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path

@pytest.mark.parametrize('content', [
    text(), '\ufeff'+text(), text(eol='\r\n'), text(lambda l: [l[0], *reversed(l[1:])]),
    text(lambda l: [l[0], *(f'"{n}","0.5","0.3","0.2"' for n in NAMES)]),
    text(lambda l: [f'{o},{x}' for o,x in zip(l, ['note', *['hm']*25])]),
    text(lambda l: ['severe,row_id,moderate,normal_mild', *(f'0.2,{n},0.3,0.5' for n in NAMES)]),
    text(lambda l: [l[0], *(o.replace('7_spinal_canal_stenosis_l4_l5', '007_Spinal Canal Stenosis_L4/L5') for o in l[1:])]),
], ids=['plain','bom','crlf','reversed','quoted','extra column','other column order','other spelling'])
def test_files_that_are_read(tmp_path, content):
    sub = read_submission(write(tmp_path/'s.csv', content))
    assert sorted(sub.row_id)==sorted(NAMES)
    assert (sub[list(SUBMISSION_COLUMNS)].to_numpy()==[.5,.3,.2]).all()

FAULTS = {
    'no CSV table': [b'', b'\x00\xff\xfe\x00', '"\n'.encode()],
    "no column 'severe'": [text(lambda l: [o.rpartition(',')[0] for o in l])],
    "no column 'row_id'": ['hello\n', text(lambda l: l[1:])],
    f"a repeated row_id in row '{NAMES[3]}'": [text(lambda l: [*l, l[4]])],
    f"a repeated row_id in row '{NAMES[0]}' and 24 more": [text(lambda l: [*l, *l[1:]])],
    f"text, a gap or an infinite value in row '{NAMES[2]}'": [text(lambda l: [*l[:3], f'{NAMES[2]},{v},.3,.2', *l[4:]]) for v in ('high','','nan','inf','1e999','0.5.1','0x1')] +
        [text(lambda l: [*l[:3], NAMES[2]+',0.5', *l[4:]])],
    f"a negative value in row '{NAMES[24]}'": [text(lambda l: [*l[:25], f'{NAMES[24]},.5,.3,-1e-9'])],
    f"only zeros in row '{NAMES[0]}'": [text(lambda l: [l[0], f'{NAMES[0]},0,0,0', *l[2:]])],
    'no <study_id>_<condition>_<level>': [text(lambda l: [*l, f'{n},1,0,0']) for n in ('','7','x_spinal_canal_stenosis_l1_l2','7_spinal_canal_stenosis','7_spinal_canal_stenosis_l6_s1','-7_spinal_canal_stenosis_l1_l2')],
    'rows longer than the header': [text(lambda l: [l[0], *(o+',9' for o in l[1:])])],
}
@pytest.mark.parametrize('message,content', [(m,c) for m,cs in FAULTS.items() for c in cs])
def test_files_that_are_refused(tmp_path, message, content):
    path = write(tmp_path/'s.csv', content)
    with pytest.raises(InputError) as e: read_submission(path)
    assert message in str(e.value) and str(path) in str(e.value) and '\n' not in str(e.value)

def test_paths_that_are_refused(tmp_path):
    for path in (tmp_path/'absent.csv', tmp_path):
        with pytest.raises(InputError, match='cannot read the table'): read_submission(path)

def test_a_bad_submission_is_not_written(tmp_path):
    bad = prior_submission([1]).assign(severe=-1.)
    with pytest.raises(InputError): write_submission(bad, tmp_path/'s.csv')
    assert not list(tmp_path.iterdir())

def test_a_header_without_rows_lacks_every_row(tmp_path):
    empty,labels = read_submission(write(tmp_path/'s.csv', HEADER+'\n')), sample_rows([7]).assign(severity=0)
    with pytest.raises(InputError, match=f"nothing submitted in row '{NAMES[0]}' and 24 more"): score(empty, labels)

@pytest.mark.parametrize('change,message', [
    (lambda l: l.drop(columns='level'), "no column 'level'"),
    (lambda l: l.assign(severity=3), 'no severity 0, 1 or 2'),
    (lambda l: l.assign(severity=np.nan), 'no severity 0, 1 or 2'),
    (lambda l: l.assign(level='L1/L2'), 'an unknown place'),
    (lambda l: pd.concat([l,l]), 'a repeated place'),
    (lambda l: l[:0], "no label in the group 'spinal'"),
])
def test_labels_that_are_refused(change, message):
    labels = sample_rows([7]).assign(severity=0)
    with pytest.raises(InputError, match=message): score(prior_submission([7]), change(labels))

@pytest.mark.parametrize('change', [lambda t: t.drop(columns='p_severe'), lambda t: t[1:], lambda t: t.assign(p_severe='x'), lambda t: t.assign(p_severe=-1), lambda t: t.assign(study_id='x')])
def test_truth_that_is_refused(tmp_path, change):
    truth = certain_truth(sample_rows([7]).assign(severity=0))
    change(truth).to_csv(tmp_path/'truth.csv', index=False)
    with pytest.raises(InputError): write_oracle(tmp_path)
    assert [p.name for p in tmp_path.iterdir()]==['truth.csv']

def slow_score(answers, labels):
    "The four terms in plain Python: answers {row: three numbers}, labels {row: severity}; rows are (study, condition, level)."
    ln = lambda x: math.log(min(max(x, 2.220446049250313e-16), 1))
    terms = []
    for group in ('spinal','foraminal','subarticular'):
        cost = weight = 0
        for place,severity in labels.items():
            if group not in place[1]: continue
            cost -= 2**severity*ln(answers[place][severity]/sum(answers[place])); weight += 2**severity
        terms.append(cost/weight)
    cost = weight = 0
    for study in {place[0] for place in labels}:
        canal = [place for place in labels if place[0]==study and 'spinal' in place[1]]
        if not canal: continue
        p,worst = max(answers[o][2] for o in canal), max(labels[o] for o in canal)
        cost -= 2**worst*(ln(p) if worst==2 else ln(1-p)); weight += 2**worst
    return [*terms, cost/weight]

@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), studies=st.integers(1, 6), labelled=st.floats(.2, 1), sharp=st.sampled_from([.05,.3,1,10]), scale=st.sampled_from([1,.5,3]))
def test_equals_the_slow_score(seed, studies, labelled, sharp, scale):
    rng,rows = np.random.default_rng(seed), sample_rows(np.random.default_rng(seed).integers(1, 2**32, studies+9)[:studies])
    q = rng.dirichlet([sharp]*3, len(rows))*scale
    severity = rng.choice(3, len(rows), p=[.7,.2,.1])
    places = list(zip(rows.study_id, rows.condition, rows.level))
    keep = rng.random(len(rows))<labelled
    if not all(any(g in c for (_,c,_),k in zip(places,keep) if k) for g in GROUPS): return
    sub = rows[['row_id']].join(pd.DataFrame(q, columns=SUBMISSION_COLUMNS)).sample(frac=1, random_state=seed%2**32)
    got = score(sub, rows.assign(severity=severity)[keep].sample(frac=1, random_state=1))
    want = slow_score(dict(zip(places, q.tolist())), {p: int(s) for p,s,k in zip(places,severity,keep) if k})
    np.testing.assert_allclose([got.spinal, got.foraminal, got.subarticular, got.any_severe_spinal], want, rtol=1e-9, atol=1e-12)
    assert math.isclose(got.total, sum(want)/4, rel_tol=1e-9, abs_tol=1e-12)

OUTCOMES = np.array(list(itertools.product(range(3), repeat=5))) # every way in which five canal levels can be graded

@settings(max_examples=15, deadline=None)
@example(seed=49, sharp=1, tilt=(1,1,1)) # here the level with the largest share is not the cheapest to lift
@given(seed=st.integers(0, 2**32), sharp=st.sampled_from([.3,1,5]), tilt=st.sampled_from([(1,1,1),(3,1,.3),(.2,3,.3)]))
def test_no_optimiser_beats_the_oracle(seed, sharp, tilt):
    rng,rows = np.random.default_rng(seed), sample_rows([1])
    truth = rows.join(pd.DataFrame(rng.dirichlet(sharp*np.array(tilt), 25), columns=['p_normal_mild','p_moderate','p_severe']))
    canal = (rows.condition=='spinal_canal_stenosis').to_numpy()
    p,weight = truth.loc[canal, ['p_normal_mild','p_moderate','p_severe']].to_numpy(), 2.**OUTCOMES
    odds,worst = p[range(5),OUTCOMES].prod(1), OUTCOMES.max(1)
    def terms(q):
        "The two canal terms, the mean taken over all 243 outcomes."
        ln = np.log(np.clip(q, 2.2e-16, 1))
        m = np.clip(q[:,2].max(), 2.2e-16, 1-2.2e-16)
        rows = -(odds*(weight*ln[range(5),OUTCOMES]).sum(1)).sum()/(odds*weight.sum(1)).sum()
        return rows, -(odds*2.**worst*np.where(worst==2, np.log(m), np.log(1-m))).sum()/(odds*2.**worst).sum()
    oracle = oracle_submission(truth)
    q,found = oracle.loc[canal, list(SUBMISSION_COLUMNS)].to_numpy(), expected_score(oracle, truth)
    np.testing.assert_allclose([found.spinal, found.any_severe_spinal], terms(q), rtol=1e-9, atol=1e-9)
    def cost(z):
        e = np.exp(z.reshape(5,3)-z.max())
        return sum(terms(e/e.sum(1, keepdims=True)))
    lifted = [np.log(p+1e-6)+2*np.outer(np.arange(5)==l, [0,0,1]) for l in range(5)] # a start in every valley
    for start in (np.log(q+1e-6).reshape(-1), *(o.reshape(-1) for o in lifted)):
        assert minimize(cost, start, method='Powell', options=dict(maxfev=3000)).fun > sum(terms(q))-1e-9

def test_numbers_near_the_largest_float_are_only_scaled():
    rows = sample_rows([1])
    huge,labels = rows[['row_id']].assign(**{c: 1.5e308 for c in SUBMISSION_COLUMNS}), rows.assign(severity=1)
    assert math.isclose(score(huge, labels).foraminal, math.log(3))

@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_the_oracle_survives_certainty(seed):
    rng,rows = np.random.default_rng(seed), sample_rows([1,2])
    labels = rows.assign(severity=rng.choice(3, 50))
    oracle = oracle_submission(certain_truth(labels))
    assert np.isfinite(oracle[list(SUBMISSION_COLUMNS)].to_numpy()).all()
    assert score(oracle, labels).total < 1e-9

@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32), sharp=st.sampled_from([.003,.01,.1]))
def test_no_optimiser_beats_the_oracle_when_levels_depend(seed, sharp):
    rng,rows = np.random.default_rng(seed), sample_rows([1])
    truth = rows.join(pd.DataFrame(rng.dirichlet([1,1,1], 25), columns=TRUTH_COLUMNS))
    canal = (rows.condition=='spinal_canal_stenosis').to_numpy()
    odds,weight,worst = rng.dirichlet([sharp]*243), 2.**OUTCOMES, OUTCOMES.max(1) # any joint law of five grades
    truth.loc[canal,list(TRUTH_COLUMNS)] = np.stack([(odds[:,None]*(OUTCOMES==k)).sum(0) for k in range(3)], -1)
    for k,c in enumerate(WORST_COLUMNS): truth[c] = odds[worst==k].sum()
    oracle = oracle_submission(truth)
    q,found = oracle.loc[canal, list(SUBMISSION_COLUMNS)].to_numpy(), expected_score(oracle, truth)
    def terms(q):
        "The two canal terms, the mean taken over all 243 outcomes of the joint law."
        ln,m = np.log(np.clip(q, 2.2e-16, 1)), np.clip(q[:,2].max(), 2.2e-16, 1-2.2e-16)
        return -(odds*(weight*ln[range(5),OUTCOMES]).sum(1)).sum()/(odds*weight.sum(1)).sum(), -(odds*2.**worst*np.where(worst==2, np.log(m), np.log(1-m))).sum()/(odds*2.**worst).sum()
    np.testing.assert_allclose([found.spinal, found.any_severe_spinal], terms(q), rtol=1e-9, atol=1e-8)
    other = q[:,:2]/np.maximum(q[:,:2].sum(1,keepdims=True),1e-300) # the two other classes share what is left as the oracle says
    def cost(z):
        s = 1/(1+np.exp(-np.clip(z,-40,40)))[:,None]
        return sum(terms(np.hstack([other*(1-s), s])))
    start = np.log((q[:,2]+1e-9)/(1-q[:,2]+1e-9))
    for z in (start, start-1, *(start+3*np.eye(5))):
        assert minimize(cost, z, method='Powell', options=dict(maxfev=1500)).fun > sum(terms(q))-1e-9

@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32), size=st.sampled_from([.001,.01,.1]))
def test_a_shaken_oracle_only_costs_more(seed, size):
    rng = np.random.default_rng(seed)
    truth = truth_odds(sample_sizes(rng, 12), range(1,13))
    oracle = oracle_submission(truth)
    q = oracle[list(SUBMISSION_COLUMNS)].to_numpy()
    q = q*np.exp(size*rng.normal(size=q.shape))
    shaken = oracle[['row_id']].join(pd.DataFrame(q/q.sum(1,keepdims=True), columns=SUBMISSION_COLUMNS))
    assert expected_score(shaken, truth).total>expected_score(oracle, truth).total

def test_changes_to_the_oracle_cost_on_the_average_of_twenty_readings():
    sizes = sample_sizes(np.random.default_rng(11), 120)
    truth = truth_odds(sizes, range(1,121))
    oracle = oracle_submission(truth)
    q = oracle[list(SUBMISSION_COLUMNS)].to_numpy()
    answer = lambda q: oracle[['row_id']].join(pd.DataFrame(q/q.sum(1,keepdims=True), columns=SUBMISSION_COLUMNS))
    changes = {'together': answer(q**.7), 'apart': answer(q**1.4), 'more severe': answer(q*[1,1,1.6]), 'less severe': answer(q*[1,1,1/1.6]), 'more moderate': answer(q*[1,1.6,1])}
    readings = [truth[list(PLACE_COLUMNS)].assign(severity=draw_grades(sizes, np.random.default_rng(s)).reshape(-1)) for s in range(20)]
    own = np.array([score(oracle, r).total for r in readings])
    for name,v in changes.items():
        cost = np.array([score(v, r).total for r in readings])-own
        assert cost.mean()>0 and expected_score(v, truth).total>expected_score(oracle, truth).total, name
    assert abs(own.mean()-expected_score(oracle, truth).total)<4*own.std()/20**.5

def test_worst_odds_are_checked_and_optional(tmp_path):
    truth = truth_odds(sample_sizes(np.random.default_rng(0), 3), [1,2,3])
    truth.assign(note='hm').to_csv(tmp_path/'truth.csv', index=False)
    mine = read_submission(write_oracle(tmp_path))
    np.testing.assert_allclose(mine[list(SUBMISSION_COLUMNS)], oracle_submission(truth)[list(SUBMISSION_COLUMNS)], atol=1e-8)
    without = truth.drop(columns=list(WORST_COLUMNS))
    without.to_csv(tmp_path/'truth.csv', index=False)
    assert len(read_submission(write_oracle(tmp_path)))==75
    for bad in ('x', -1, np.nan):
        with pytest.raises(InputError, match="give three numbers of at least 0 as worst_normal_mild"): oracle_submission(truth.assign(worst_severe=bad))
    canal = truth.condition=='spinal_canal_stenosis'
    sure = certain_truth(truth[list(PLACE_COLUMNS)].assign(severity=np.where(canal & (truth.level=='l3_l4'), 2, 0)))
    assert any_severe_mass(sure).to_numpy().tolist()==[[4,0]]*3

@pytest.mark.parametrize('by, told', ((1.0005,0), (1.01,1), (2,1)))
def test_rows_that_do_not_sum_to_one_are_told_of(tmp_path, monkeypatch, by, told):
    said,rows = [], prior_submission([1])
    monkeypatch.setattr(log, 'warning', lambda text,*a: said.append(text%a))
    rows.loc[4,list(SUBMISSION_COLUMNS)] *= by
    rows.to_csv(tmp_path/'s.csv', index=False)
    read_submission(tmp_path/'s.csv')
    assert len(said)==told and all('1 rows' in s and rows.row_id[4] in s for s in said)
