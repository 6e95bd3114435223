"""One file per page, each with `render(page: dashboard.page.Page) -> None`; `dashboard.app` lists them."""
