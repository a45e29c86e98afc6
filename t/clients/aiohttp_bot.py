#!/usr/bin/env python3
"""A Telegram bot's payment module: the API with aiohttp, and a webhook.

Use: aiohttp_bot.py BASE SHOP API_KEY SECRET_KEY
     aiohttp_bot.py --webhook PORT FILE SECRET_KEY

The webhook reads multipart/form-data only.  It appends a line of JSON to FILE
for each notification.
"""
import asyncio
import hashlib
import hmac
import json
import sys
import time
from urllib.parse import urlencode

import aiohttp
from aiohttp import web


class Client:
    def __init__(self, session, base, shop, api_key):
        self.session, self.base, self.shop, self.api_key = session, base, shop, api_key

    async def call(self, method, **params):
        """Calls a method; the nonce is the clock in milliseconds."""
        await asyncio.sleep(0.002)
        body = json.dumps(
            {"shop_id": self.shop, "nonce": int(time.time() * 1000), **params},
            ensure_ascii=False).encode()
        sign = hmac.new(self.api_key.encode(), body, hashlib.sha256).hexdigest()
        headers = {"Authorization": f"Bearer {sign}", "Content-Type": "application/json"}
        async with self.session.post(
                f"{self.base}/api/{method}/", data=body, headers=headers) as response:
            answer = await response.json()
        if answer["type"] != "success":
            raise SystemExit(f"{method}: {answer['desc']}")
        return answer["data"]


async def run(base, shop, api_key, secret_key):
    async with aiohttp.ClientSession() as session:
        client = Client(session, base, shop, api_key)
        balance = (await client.call("balance"))["balance"]["RUB"]
        order = await client.call(
            "createOrder", currency="RUB", amount=100.5, order_id="Заказ №1",
            receipt={"items": [{"name": "чай", "count": 1, "price": 100.5}]})
        found = await client.call("order", payment_id="Заказ №1")
        again = await client.call("order", order_id=order["id"])
        payout = await client.call(
            "createWithdrawal", currency="RUB", account="4111111111111111",
            amount=10, payment_id="Выплата 1", payment_system=5)
        paid_out = await client.call("withdrawal", payment_id="Выплата 1")
        signed = urlencode(sorted({
            "shop_id": shop, "amount": "5.00", "currency": "RUB", "order_id": "Ссылка 1"}.items()))
        sign = hashlib.md5((signed + secret_key).encode()).hexdigest()
        form = aiohttp.MultipartWriter("form-data")
        for name, value in {"shop_id": shop, "amount": "5.00", "currency": "RUB",
                            "order_id": "Ссылка 1", "sign": sign}.items():
            form.append(value).set_content_disposition("form-data", name=name)
        async with session.post(f"{base}/pay/form/", data=form) as response:
            link = response.status
    print(json.dumps({
        "balance": balance,
        "order": found["payment_id"],
        "same": again == found and found["id"] == order["id"],
        "payout": paid_out["payment_id"],
        "left": payout["balance"]["RUB"],
        "same_payout": paid_out["id"] == payout["order_id"],
        "link": link,
    }))


def serve(port, path, secret_key):
    async def notified(request):
        fields = {}
        async for part in await request.multipart():
            fields[part.name] = await part.text()
        sign = fields.pop("sign")
        signed = urlencode(sorted(fields.items()))
        good = hashlib.md5((signed + secret_key).encode()).hexdigest() == sign
        with open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps({"good": good, "fields": fields}) + "\n")
        return web.Response(text="OK")

    app = web.Application()
    app.router.add_post("/", notified)
    web.run_app(app, host="127.0.0.1", port=int(port), print=None)


if sys.argv[1] == "--webhook":
    serve(*sys.argv[2:5])
else:
    asyncio.run(run(*sys.argv[1:5]))
