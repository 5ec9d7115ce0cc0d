"""Settings of the service; see README.md for the environment."""

import json
import os

with open(os.environ["PEER_TENANTS"]) as file:
    TENANTS = {tenant["host"]: tenant for tenant in json.load(file)}

_host, _port = os.environ["PEER_POSTGRES"].split(":")

# "default" exists because Django asks for it; nothing is stored there.
DATABASES = {"default": {}} | {
    host: {
        "ENGINE": "django.db.backends.postgresql",
        "HOST": _host,
        "PORT": _port,
        "NAME": tenant["database"],
        "USER": tenant["user"],
        "PASSWORD": tenant["password"],
        "CONN_MAX_AGE": None if os.environ.get("PEER_PERSISTENT") == "1" else 0,
        "OPTIONS": {"application_name": "peer", "sslmode": "disable"},
    }
    for host, tenant in TENANTS.items()
}
DATABASE_ROUTERS = ["tenancy.Router"]

DEBUG = False
SECRET_KEY = "signs nothing here: tokens have the tenants' own keys"
ALLOWED_HOSTS = [".localhost"]
ROOT_URLCONF = "urls"
MIDDLEWARE = ["tenancy.Middleware"]
INSTALLED_APPS = ["django.contrib.contenttypes", "django.contrib.auth", "rest_framework", "account"]
AUTH_USER_MODEL = "account.User"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True
TIME_ZONE = "UTC"
USE_I18N = False
USE_L10N = False
LOGGING_CONFIG = None

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": ["rest_framework_simplejwt.authentication.JWTAuthentication"],
    "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.IsAuthenticated"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_PARSER_CLASSES": ["rest_framework.parsers.JSONParser"],
}
SIMPLE_JWT = {
    "ALGORITHM": "ES256",
    "AUTH_TOKEN_CLASSES": ("account.tokens.TenantToken",),
    "USER_ID_CLAIM": "sub",
    "TOKEN_TYPE_CLAIM": "typ",
    "JTI_CLAIM": None,
}
