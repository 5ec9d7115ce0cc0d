"""Which tenant a request is for, and in which database it therefore works."""

from contextvars import ContextVar

from django.conf import settings
from django.core.signals import request_finished, request_started
from django.db import close_old_connections, connections, reset_queries
from django.http import JsonResponse

current = ContextVar("tenant")

# Django visits every configured database at the begin and the end of a request.
# The middleware looks after the one that the request used.
request_started.disconnect(reset_queries)
request_started.disconnect(close_old_connections)
request_finished.disconnect(close_old_connections)


class Middleware:
    def __init__(self, get_response):
        self.get_response = get_response

    def __call__(self, request):
        host = request.get_host().partition(":")[0]
        tenant = settings.TENANTS.get(host)
        if tenant is None:
            return JsonResponse({"detail": "No workspace answers at this address."}, status=404)
        connection = connections[host]
        connection.close_if_unusable_or_obsolete()
        token = current.set(tenant)
        try:
            response = self.get_response(request)
            response["Content-Length"] = str(len(response.content))
            return response
        finally:
            current.reset(token)
            connection.close_if_unusable_or_obsolete()


class Router:
    def db_for_read(self, model, **hints):
        return current.get()["host"]

    db_for_write = db_for_read
