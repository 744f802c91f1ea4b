"""A web page that shows, on one's own data, what a narrower vector saves and what it loses.

The page asks a running server over gRPC like any client, twice for each answer: at the budget chosen on the page, and
at the full width. `compare` sets the two side by side, `names` finds users and titles in the bundle's folder, `traffic`
reads the server's page for Prometheus, `app` answers the browser, `verb` is ``recsys explore``. `serving.server` needs
none of it.
"""
