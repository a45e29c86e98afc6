#!/usr/bin/env python3
"""The payment API with requests, as the provider's Python samples use it.

Use: requests_client.py BASE SHOP API_KEY SECRET_KEY [--hasty]
"""
import hashlib
import hmac
import json
import sys
import time
from urllib.parse import urlencode

import requests

base, shop, api_key, secret_key = sys.argv[1:5]
hasty = "--hasty" in sys.argv[5:]
previous = 0


def call(method, **params):
    """Calls a method; the nonce is the clock in seconds."""
    global previous
    while not hasty and int(time.time()) == previous:
        time.sleep(0.02)
    previous = int(time.time())
    body = json.dumps({"shop_id": shop, "nonce": previous, **params})
    sign = hmac.new(api_key.encode(), body.encode(), hashlib.sha256).hexdigest()
    answer = requests.post(
        f"{base}/api/{method}/",
        data=body,
        headers={"Authorization": f"Bearer {sign}", "Content-Type": "application/json"},
        timeout=20,
    ).json()
    if answer["type"] != "success":
        raise SystemExit(f"{method}: {answer['desc']}")
    return answer["data"]


if hasty:
    while True:
        call("balance")

balance = call("balance")["balance"]["RUB"]
order = call(
    "createOrder", currency="RUB", amount=100.50, order_id="Заказ №1",
    payment_system=10, fields={"email": "user@site.ru", "phone": "79111231212"},
    receipt={"items": [{"name": "чай", "count": 1, "price": 100.5}]},
)
found = call("order", payment_id="Заказ №1")
again = call("order", order_id=order["id"])
payout = call(
    "createWithdrawal", currency="RUB", account="4111111111111111", amount=10,
    payment_id="Выплата 1", payment_system=5,
)
paid_out = call("withdrawal", payment_id="Выплата 1")
signed = urlencode(sorted(
    {"shop_id": shop, "amount": "5.00", "currency": "RUB", "order_id": "Ссылка 1"}.items()))
sign = hashlib.md5((signed + secret_key).encode()).hexdigest()
link = requests.get(f"{base}/pay/?{signed}&sign={sign}", timeout=20)
print(json.dumps({
    "balance": balance,
    "order": found["payment_id"],
    "same": again == found and found["id"] == order["id"],
    "payout": paid_out["payment_id"],
    "left": payout["balance"]["RUB"],
    "same_payout": paid_out["id"] == payout["order_id"],
    "link": link.status_code,
}))
