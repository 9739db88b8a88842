"Give every notebook its links to Colab and Kaggle and the cell that installs this library there: `python tools/badges.py`; with `--check`, only say what lacks them."
import sys
from pathlib import Path
from fastcore.nbio import mk_cell,read_nb,write_nb
from nbdev.config import get_config

ROOT = Path(__file__).resolve().parent.parent

def links(name, git):
    "The line of badges of a notebook."
    path = f"{git.removeprefix('https://github.com/')}/blob/main/nbs/{name}"
    return (f'[![Open in Colab](images/colab.svg)](https://colab.research.google.com/github/{path}) '
            f'[![Open in Kaggle](images/kaggle.svg)](https://kaggle.com/kernels/welcome?src=https://github.com/{path})')

def install(git): return f'#| hide\n#| eval: false\n!(test -d /content || test -d /kaggle) && pip install -Uqq git+{git}'

def dressed(path, git):
    "The cells of a notebook with its badges and its install cell after the title."
    nb = read_nb(path)
    rest = [c for c in nb.cells[1:] if not c.source.startswith(('[![Open in Colab]','#| hide\n#| eval: false\n!(test -d /content'))]
    head = [mk_cell(links(path.name, git), 'markdown'), mk_cell(install(git), 'code')]
    for c,i in zip(head, ('badges','install')): c['id'] = i
    old = [c.source for c in nb.cells]
    nb.cells = [nb.cells[0], *head, *rest]
    return nb, [c.source for c in nb.cells]==old

def main():
    git,lack = get_config(path=ROOT).git_url, []
    for path in sorted((ROOT/'nbs').glob('[!_.]*.ipynb')):
        nb,same = dressed(path, git)
        if same: continue
        lack.append(path.name)
        if '--check' not in sys.argv: write_nb(nb, path)
    if lack and '--check' in sys.argv: sys.exit(f"without badges: {', '.join(lack)}; run `python tools/badges.py` and commit")

if __name__=='__main__': main()
