"""Tools that tests of several kinds use: servers, the app as processes, waiting, checking votes."""
