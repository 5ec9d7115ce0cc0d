from account.views import Me
from django.urls import path

urlpatterns = [path("account/me", Me.as_view())]
