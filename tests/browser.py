"A headless browser for the tests that walk pages."
import importlib.util,os,shutil
import pytest

CHROMIUM = os.environ.get('LUMBAR_CHROMIUM') or shutil.which('chromium') or shutil.which('chromium-browser') or shutil.which('google-chrome')
missing = next((f"no {n}" for n in ('playwright','voila') if importlib.util.find_spec(n) is None), None if CHROMIUM else "no chromium")
browser_test = pytest.mark.skipif(missing is not None, reason=f"{missing} on this machine")
ARGUMENTS = ['--no-sandbox','--disable-gpu','--disable-background-networking','--disable-component-update']

@pytest.fixture(scope='module')
def chromium():
    from playwright.sync_api import sync_playwright
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()
