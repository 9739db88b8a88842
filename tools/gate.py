"Run one of nbdev's commands and fail if it changes the files below the given folders: `python tools/gate.py nbdev-clean nbs`."
import hashlib,subprocess,sys
from pathlib import Path

def fingerprint(folders):
    "The content of every file below `folders`."
    files = sorted(p for f in folders for p in Path(f).rglob('*') if p.is_file() and p.suffix in ('.py','.ipynb'))
    return {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}

def main(command, *folders):
    before = fingerprint(folders)
    subprocess.run([Path(sys.executable).parent/command], check=True)
    after = fingerprint(folders)
    changed = sorted(p for p in before.keys()|after.keys() if before.get(p)!=after.get(p))
    if changed: sys.exit(f"{command} changed {', '.join(changed)}; commit what it wrote")
    print(f'{command}: nothing to change')

if __name__=='__main__': main(*sys.argv[1:])
