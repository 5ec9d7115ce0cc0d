"""Access tokens are signed with the tenant's own key."""

import json

from django.conf import settings
from jwt.algorithms import ECAlgorithm
from rest_framework_simplejwt.backends import TokenBackend
from rest_framework_simplejwt.tokens import AccessToken

from tenancy import current

_backends = {
    host: TokenBackend(
        "ES256",
        verifying_key=ECAlgorithm.from_jwk(json.dumps(tenant["key"])),
        audience=tenant["audience"],
        issuer=tenant["issuer"],
    )
    for host, tenant in settings.TENANTS.items()
}


class TenantToken(AccessToken):
    def get_token_backend(self):
        return _backends[current.get()["host"]]
