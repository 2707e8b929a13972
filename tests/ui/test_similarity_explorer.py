"""`SimilarityExplorer` in a real browser, by mouse and by keyboard; what Python received is asserted."""

import ast
from pathlib import Path

CONFTEST = Path(__file__).parents[1] / "conftest.py"

SETUP = f"""
import importlib.util
from sbertlab import SentenceTransformer, models
from sbertlab.widgets.similarity_explorer import SimilarityExplorer

spec = importlib.util.spec_from_file_location("shared", {str(CONFTEST)!r})
shared = importlib.util.module_from_spec(spec)
spec.loader.exec_module(shared)
model = SentenceTransformer(modules=[shared.tiny_transformer(0), models.Pooling(32, "mean")], device="cpu")
"""

EVIL = "<img src=x onerror='window.ran=1'><script>window.ran=1</script> שלום 😀 $x_1$"

DRAWN = """async image => {
  const content = await (await fetch(image.src)).arrayBuffer();
  return image.naturalWidth > 100 ? content.byteLength : 0;
}"""


def test_typed_sentences_give_a_matrix_and_the_chosen_pair_its_tokens(notebook):
    book = notebook(SETUP, "panel = SimilarityExplorer(model); panel")
    page, keys = book.page, book.page.keyboard
    panel = page.locator(".sbertlab-panel")
    typed = panel.get_by_label("Sentences, one per line")
    matrix, tokens = panel.locator("img").first, panel.locator("img").last
    before = [image.get_attribute("src") for image in (matrix, tokens)]

    typed.click()
    keys.press("Control+a")
    keys.type("the cat sits on the chair\n\n  a big   dog runs \nmy refund is late")
    panel.get_by_role("button", name="Compare", exact=True).click()
    book.wait_for_python("panel.texts", ["the cat sits on the chair", "a big dog runs", "my refund is late"])
    page.wait_for_timeout(1000)
    assert before[0] != matrix.get_attribute("src")
    assert before[1] != tokens.get_attribute("src")
    assert matrix.evaluate(DRAWN) == int(book.python("print(len(panel._matrix.value))"))
    panel.get_by_label("Explain", exact=True).select_option(index=2)
    explained(book, "my refund is late", "a big dog runs")
    assert tokens.evaluate(DRAWN) == int(book.python("print(len(panel._tokens.value))"))
    tokens.scroll_into_view_if_needed()
    book.shot("similarity_explorer")

    typed.focus()
    keys.press("Control+a")
    keys.type(f"the cat sits\n{EVIL}\na dog reads")
    keys.press("Tab")
    keys.press("Enter")
    book.wait_for_python("panel.texts", ["the cat sits", EVIL, "a dog reads"])
    panel.get_by_label("with", exact=True).focus()
    cells = page.locator(".jp-Cell").count()
    keys.press("ArrowDown")
    explained(book, "the cat sits", "a dog reads")
    keys.press("Shift+Tab")
    keys.press("ArrowDown")
    explained(book, EVIL, "a dog reads")
    assert page.locator(".jp-Cell").count() == cells
    assert page.evaluate("window.ran") is None, "markup in a sentence ran"
    assert panel.locator("img[src=x], script").count() == 0
    page.wait_for_timeout(1000)
    matrix.scroll_into_view_if_needed()
    book.shot("similarity_explorer_markup")


def explained(book, a, b):
    """Wait until Python explains this pair, and check what the page says of it."""
    cosine = "panel.similarities[panel._first.value, panel._second.value]"  # set before the explanation
    done = f"panel.explanation and abs(panel.explanation.score - {cosine}) < 1e-5"
    book.wait_for_python(f"panel._pair if {done} else None", (a, b))
    panel = book.page.locator(".sbertlab-panel")
    score = book.python("print(f'{panel.explanation.score:.3f}')")
    panel.get_by_text(f"cosine {score}, the sum over all pairs of tokens.").wait_for()
    rows = panel.locator("tbody tr").all()
    shown = [[cell.strip() for cell in row.locator("td").all_inner_texts()] for row in rows]
    strongest = "panel.explanation.strongest(6).itertuples(index=False)"
    assert shown == ast.literal_eval(book.python(f"print([[a, b, f'{{share:.3f}}'] for a, b, share in {strongest}])"))
