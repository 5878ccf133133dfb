"""How a browser comes by its cookie: with the link that the server printed, or by typing the token."""

from __future__ import annotations

import asyncio

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, RedirectResponse, Response

from thoughtscope.server.access import Access, cookie_name
from thoughtscope.server.errors import Refused
from thoughtscope.server.gate import LOGIN
from thoughtscope.server.wire import LoginRequest

DELAY = 0.5
"""Seconds before a wrong token is answered."""


def add_login(app: FastAPI, access: Access) -> None:
    @app.post(LOGIN)
    async def login(body: LoginRequest, request: Request) -> JSONResponse:
        """Gives the cookie for the token. Asks for no other token itself."""
        if not access.fits(body.token):
            await asyncio.sleep(DELAY)
            raise Refused(401, "wrong_token", "This is not the token of this server.")
        answer = JSONResponse({"ok": True})
        _give_cookie(answer, request, access)
        return answer


async def without_token(request: Request, access: Access) -> Response | None:
    """For the link with a token in it: the way to the same page without, with the cookie if the token fits.

    The part after the # stays, as browsers carry it over a redirection. None for a link without a token.
    """
    token = request.query_params.get("token")
    if token is None:
        return None
    answer = RedirectResponse(request.url.path, status_code=303)
    if access.fits(token):
        _give_cookie(answer, request, access)
    else:
        await asyncio.sleep(DELAY)
    return answer


def _give_cookie(answer: Response, request: Request, access: Access) -> None:
    answer.set_cookie(cookie_name(request.headers), access.cookie, httponly=True, samesite="strict", path="/")
