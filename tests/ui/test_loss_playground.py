"""`LossPlayground` in a real browser, by keyboard and mouse; what Python received is asserted."""


def test_menu_slider_and_buttons_reach_the_points(notebook):
    book = notebook(
        "from sbertlab.widgets.loss_playground import LossPlayground", "panel = LossPlayground('TripletLoss'); panel"
    )
    page, keys = book.page, book.page.keyboard
    picture = page.locator(".sbertlab-panel img").first
    picture.wait_for()
    first = picture.get_attribute("src")

    page.get_by_role("button", name="Step", exact=True).click()
    book.wait_for_python("len(panel.way)", 2)
    keys.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Descend"
    keys.press("Enter")
    book.wait_for_python("len(panel.way)", 27)
    assert picture.get_attribute("src") != first
    assert "after 26 steps" in page.locator(".sbertlab-panel").first.inner_text()

    page.locator(".sbertlab-panel .noUi-handle").first.focus()
    keys.press("ArrowRight")
    book.wait_for_python("(len(panel.way), panel.settings['triplet_margin'] > 1)", "(1, True)")
    keys.press("End")
    book.wait_for_python("panel.settings['triplet_margin']", 3.0)
    page.wait_for_timeout(2000)
    book.shot("loss_triplets")

    page.get_by_label("Loss").first.select_option("CoSENTLoss")
    book.wait_for_python("(panel.name, panel.settings['scale'])", "('CoSENTLoss', 20)")
    page.get_by_role("button", name="Scatter").focus()
    keys.press("Space")
    book.wait_for_python("panel._seed", 0)
    page.get_by_role("button", name="Start again").click()
    book.wait_for_python("(bool((panel.push.points.xy == panel.way[0].points.xy).all()), len(panel.way))", "(True, 1)")
    book.shot("loss_playground")
