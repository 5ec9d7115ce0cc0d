from django.contrib.auth.base_user import AbstractBaseUser
from django.db import models


class User(AbstractBaseUser):
    account_uid = models.TextField()
    username = models.TextField(unique=True)
    password = models.TextField(db_column="password_hash", null=True)
    full_name = models.TextField()
    email = models.TextField(null=True)
    email_verified = models.BooleanField()
    primary_mobile = models.TextField(null=True)
    phone_verified = models.BooleanField()
    is_active = models.BooleanField()
    is_2fa_enabled = models.BooleanField()
    two_fa_type = models.TextField(null=True)
    date_joined = models.DateTimeField()
    created_at = models.DateTimeField()
    updated_at = models.DateTimeField()
    deleted_at = models.DateTimeField(null=True)
    is_deleted = models.BooleanField()

    USERNAME_FIELD = "username"

    class Meta:
        db_table = "users"
        managed = False
