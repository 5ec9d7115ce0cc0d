from rest_framework.response import Response
from rest_framework.serializers import ModelSerializer
from rest_framework.views import APIView

from account.models import User


class UserSerializer(ModelSerializer):
    class Meta:
        model = User
        fields = [
            "id", "username", "full_name", "email", "primary_mobile", "email_verified", "phone_verified", "account_uid",
            "is_2fa_enabled", "two_fa_type", "date_joined", "last_login", "created_at", "updated_at", "deleted_at", "is_deleted",
        ]


class Me(APIView):
    def get(self, request):
        return Response(UserSerializer(request.user).data)
