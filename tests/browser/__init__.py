"""Tests of the page in a browser: a package, so that browser, server and tab end with the last of them."""
