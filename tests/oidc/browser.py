"""Whoever has a code, at the provider's page: opens it, enters the code, says yes or no.

browser.py CA.pem PAGE CODE yes|no
"""

import re
import ssl
import sys
import urllib.parse
import urllib.request
from http.cookiejar import CookieJar

ca, page, code, answer = sys.argv[1:]
browser = urllib.request.build_opener(
    urllib.request.HTTPSHandler(context=ssl.create_default_context(cafile=ca)),
    urllib.request.HTTPCookieProcessor(CookieJar()),
)


def shown(url, fields=None):
    """The page, and what is on it."""
    data = urllib.parse.urlencode(fields).encode() if fields else None
    with browser.open(url, data, timeout=20) as answered:
        return answered.geturl(), answered.read().decode()


def hidden(text):
    """What a form sends along without being asked."""
    inputs = re.findall(r"<input[^>]*>", text)
    pairs = [(re.search(r'name="([^"]+)"', one), re.search(r'value="([^"]*)"', one)) for one in inputs]
    return {name.group(1): value.group(1) for name, value in pairs if name and value}


url, text = shown(page)
url, text = shown(url, {"xsrf": hidden(text)["xsrf"], "user_code": code})
choice = {"confirm": "yes"} if answer == "yes" else {"abort": "yes"}
url, text = shown(url, {"xsrf": hidden(text)["xsrf"], "user_code": code, **choice})
print(re.sub(r"<[^>]+>|\s+", " ", text).strip()[-200:])
