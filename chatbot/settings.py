"""Settings, from the environment alone. `.env.example` explains every variable."""

from pathlib import Path

import environ
from celery.schedules import crontab
from csp.constants import NONE, SELF
from django.core.exceptions import ImproperlyConfigured

from chatbot.celery import broker_url, queue_of
from chatbot.secrets import read_secret
from chatbot.telemetry import configure_logging

BASE_DIR = Path(__file__).resolve().parent.parent
env = environ.Env()

DEBUG = env.bool("DEBUG", default=False)
HTTPS = env.bool("HTTPS", default=True)
SECRET_KEY = read_secret("SECRET_KEY")
CONTENT_KEYS = read_secret("CONTENT_KEYS")
# Where the keys of days rest: a folder, or aws: and a prefix. Without a default on purpose: a
# folder that vanishes with a container would take everything said with it.
KEYRING = env.str("KEYRING")
ALLOWED_HOSTS = env.list("ALLOWED_HOSTS", default=["localhost", "127.0.0.1", "[::1]"])
CSRF_TRUSTED_ORIGINS = env.list("CSRF_TRUSTED_ORIGINS", default=[])

LOG_LEVEL = env.str("LOG_LEVEL", default="INFO")
LOGGING_CONFIG = None
configure_logging(LOG_LEVEL)

INSTALLED_APPS = [
    "accounts",
    "audit",
    "prompts",
    "conversations",
    "chatbot.apps.ParleyAdmin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "servestatic",
    "django.contrib.staticfiles",
    "allauth",
    "allauth.account",
    "auditlog",
    "csp",
    "django_htmx",
    "django_prometheus",
]

MIDDLEWARE = [
    "django_prometheus.middleware.PrometheusBeforeMiddleware",
    "chatbot.telemetry.request_ids",
    "django.middleware.security.SecurityMiddleware",
    "csp.middleware.CSPMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "django_htmx.middleware.HtmxMiddleware",
    "allauth.account.middleware.AccountMiddleware",
    "audit.acting.acting_as_the_signed_in",
    "django_prometheus.middleware.PrometheusAfterMiddleware",
    "chatbot.one_thread.in_one_thread",
]

ROOT_URLCONF = "chatbot.urls"
ASGI_APPLICATION = "chatbot.asgi.application"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
                "accounts.http.appearance",
            ],
        },
    },
]

# The pool is per process: processes x max_size must stay below PostgreSQL's max_connections.
DATABASE_POOL_SIZE = env.int("DATABASE_POOL_SIZE", default=16)
DATABASES = {
    "default": {
        **env.db_url_config(read_secret("DATABASE_URL")),
        "CONN_MAX_AGE": 0,
        "CONN_HEALTH_CHECKS": True,
    }
}
DATABASES["default"].setdefault("OPTIONS", {})["pool"] = {
    "min_size": 1,
    "max_size": DATABASE_POOL_SIZE,
    "timeout": 10,
    # A restarted PostgreSQL is found again within seconds instead of minutes.
    "reconnect_timeout": 60,
}

REDIS_URL = read_secret("REDIS_URL")
REDIS_PREFIX = env.str("REDIS_PREFIX", default="parley:")

CACHES = {
    "default": {
        "BACKEND": "chatbot.cache.TolerantRedisCache",
        "LOCATION": REDIS_URL,
        "KEY_PREFIX": f"{REDIS_PREFIX}cache",
        "OPTIONS": {
            "socket_timeout": 2,
            "socket_connect_timeout": 1,
            # A crowd of requests waits a moment for a connection instead of doing without a cache.
            "pool_class": "redis.connection.BlockingConnectionPool",
            "max_connections": 50,
            "timeout": 2,
        },
    }
}

CELERY_BROKER_URL = broker_url(REDIS_URL)
CELERY_BROKER_TRANSPORT_OPTIONS = {"global_keyprefix": f"{REDIS_PREFIX}celery:"}
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_TASK_IGNORE_RESULT = True
CELERY_TASK_DEFAULT_QUEUE = "short"
CELERY_TASK_QUEUES = {name: {"exchange": name, "routing_key": name} for name in ("short", "long")}
CELERY_TASK_ROUTES = (queue_of,)
CELERY_TASK_ACKS_LATE = True
CELERY_WORKER_PREFETCH_MULTIPLIER = 1
CELERY_BEAT_SCHEDULE = {
    "worker_beat": {"task": "chatbot.worker_beat", "schedule": 10.0},
    # What waited longer than until the next one is dropped, so that they never pile up.
    "seal_the_log": {
        "task": "audit.tasks.seal",
        "schedule": 5.0,
        "options": {"expires": 5.0},
    },
    "publish_checkpoints": {
        "task": "audit.tasks.publish",
        "schedule": 10.0,
        "options": {"expires": 10.0},
    },
    "stream_entries": {
        "task": "audit.tasks.stream",
        "schedule": 5.0,
        "options": {"expires": 5.0},
    },
    "watch_releases": {
        "task": "prompts.tasks.watch_releases",
        "schedule": 20.0,
        "options": {"expires": 20.0},
    },
    "look_for_drift": {
        "task": "prompts.tasks.look_for_drift",
        "schedule": crontab(minute=37),
    },
    "tend_evaluations": {
        "task": "prompts.tasks.tend_evaluations",
        "schedule": 30.0,
        "options": {"expires": 30.0},
    },
    "evaluate_live_prompts": {
        "task": "prompts.tasks.evaluate_live_prompts",
        "schedule": crontab(minute="*/10"),
        "options": {"expires": 600.0},
    },
    "forget_evaluation_replies": {
        "task": "prompts.tasks.forget_evaluation_replies",
        "schedule": crontab(hour=3, minute=29),
    },
    "tend_exports": {
        "task": "audit.tasks.tend_exports",
        "schedule": 60.0,
        "options": {"expires": 60.0},
    },
    "remove_old_entries": {
        "task": "audit.tasks.remove_old_entries",
        "schedule": crontab(hour=2, minute=41),
    },
    "purge": {
        "task": "conversations.tasks.purge",
        "schedule": crontab(minute=7),
        "options": {"expires": 3600.0},
    },
    "forget_dead_runners": {
        "task": "conversations.tasks.forget_dead_runners",
        "schedule": crontab(minute=23),
    },
    "settle_forgotten_reservations": {
        "task": "conversations.tasks.settle_forgotten_reservations",
        "schedule": crontab(minute="*/10"),
    },
    "destroy_deleted": {
        "task": "conversations.tasks.destroy_deleted",
        "schedule": 60.0,
        "options": {"expires": 60.0},
    },
    "tend_person_exports": {
        "task": "conversations.tasks.tend_person_exports",
        "schedule": 60.0,
        "options": {"expires": 60.0},
    },
    "tend_counsel_exports": {
        "task": "conversations.tasks.tend_counsel_exports",
        "schedule": 60.0,
        "options": {"expires": 60.0},
    },
    "finish_erasures": {
        "task": "conversations.tasks.finish_erasures",
        "schedule": 60.0,
        "options": {"expires": 60.0},
    },
    "end_holds": {
        "task": "conversations.tasks.end_holds",
        "schedule": crontab(minute=3),
    },
    "forget_ended_sessions": {
        "task": "accounts.tasks.forget_ended_sessions",
        "schedule": crontab(hour=3, minute=17),
    },
}

# Cached in Redis, kept in PostgreSQL: a lost Redis signs nobody out.
SESSION_ENGINE = "django.contrib.sessions.backends.cached_db"
SESSION_COOKIE_AGE = 14 * 24 * 3600
SESSION_COOKIE_SECURE = HTTPS
SESSION_COOKIE_SAMESITE = "Lax"
CSRF_COOKIE_SECURE = HTTPS
CSRF_COOKIE_HTTPONLY = True
CSRF_FAILURE_VIEW = "accounts.views.csrf_failure"
SECURE_SSL_REDIRECT = HTTPS and env.bool("SSL_REDIRECT", default=True)
SECURE_HSTS_SECONDS = 31_536_000 if HTTPS else 0
SECURE_HSTS_INCLUDE_SUBDOMAINS = HTTPS
SECURE_HSTS_PRELOAD = HTTPS
SECURE_REFERRER_POLICY = "same-origin"
SECURE_REDIRECT_EXEMPT = [r"^health(/|$)", r"^metrics$"]
if env.bool("BEHIND_PROXY", default=False):
    SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
# How many proxies of ours append to X-Forwarded-For; audit entries name the client behind them.
TRUSTED_PROXIES = env.int("TRUSTED_PROXIES", default=0)
X_FRAME_OPTIONS = "DENY"

CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": [NONE],
        "script-src": [SELF],
        "style-src": [SELF],
        "img-src": [SELF, "data:"],
        "font-src": [SELF],
        "connect-src": [SELF],
        "form-action": [SELF],
        "base-uri": [NONE],
        "frame-ancestors": [NONE],
    }
}

AUTH_USER_MODEL = "accounts.User"
AUTHENTICATION_BACKENDS = ["accounts.access.RoleBackend"]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {
        "NAME": "django.contrib.auth.password_validation.MinimumLengthValidator",
        "OPTIONS": {"min_length": 12},
    },
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
]
LOGIN_URL = "account_login"
LOGIN_REDIRECT_URL = "/"
LOGOUT_REDIRECT_URL = "account_login"
ACCOUNT_ADAPTER = "accounts.sign_in.AccountAdapter"
ACCOUNT_LOGIN_METHODS = {"email"}
ACCOUNT_SIGNUP_FIELDS = ["email*", "password1*", "password2*"]
ACCOUNT_USER_MODEL_USERNAME_FIELD = None
ACCOUNT_USER_MODEL_EMAIL_FIELD = "email"
ACCOUNT_EMAIL_VERIFICATION = "none"
ACCOUNT_LOGOUT_ON_PASSWORD_CHANGE = False
ACCOUNT_SESSION_REMEMBER = True
ACCOUNT_EMAIL_UNKNOWN_ACCOUNTS = False
ACCOUNT_EMAIL_SUBJECT_PREFIX = ""

# Models that admins edit register for diffs; what people say never does.
AUDITLOG_LOGENTRY_MODEL = "audit.ModelChange"
AUDITLOG_DISABLE_REMOTE_ADDR = True
AUDITLOG_STORE_JSON_CHANGES = True
# How many bits of a client's address entries keep, of IPv4 and of IPv6.
AUDIT_IP_PREFIX = env.str("AUDIT_IP_PREFIX", default="24/56")

# The log's tree (docs/audit.md). The name is fixed with the first checkpoint.
AUDIT_ORIGIN = env.str("AUDIT_ORIGIN", default=f"{next(iter(ALLOWED_HOSTS), 'localhost')}/log")
AUDIT_FOLDER = Path(env.str("AUDIT_FOLDER", default=str(BASE_DIR / "data" / "audit")))
# Where copies go, addresses with commas between; `audit.streams` and `audit.publishing` read them.
AUDIT_STREAM_TO = env.str("AUDIT_STREAM_TO", default="")
AUDIT_PUBLISH_TO = env.str("AUDIT_PUBLISH_TO", default="")
# Who is asked for retraining when a live prompt declines, addresses with commas between.
RETRAINING_WEBHOOK = env.str("RETRAINING_WEBHOOK", default="")
# For how many days the file of an export may be downloaded.
AUDIT_EXPORT_DAYS = env.int("AUDIT_EXPORT_DAYS", default=7)
# Retention of the log itself; `audit.removal` checks it.
AUDIT_RETENTION_DAYS = env.int("AUDIT_RETENTION_DAYS", default=400)
AUDIT_RETENTION_SHORTER_THAN_180_DAYS = env.bool(
    "AUDIT_RETENTION_SHORTER_THAN_180_DAYS", default=False
)

# The person's rights. For so many minutes people may undo what they delete; then it is destroyed.
DELETION_UNDO_MINUTES = env.int("DELETION_UNDO_MINUTES", default=10)
if DELETION_UNDO_MINUTES < 0:
    raise ImproperlyConfigured("DELETION_UNDO_MINUTES is a number of minutes, 0 or more.")
# Where the sealed files of people's exports lie; the worker writes them, the web processes read.
EXPORT_FOLDER = Path(env.str("EXPORT_FOLDER", default=str(BASE_DIR / "data" / "exports")))

DEFAULT_FROM_EMAIL = env.str("DEFAULT_FROM_EMAIL", default="Parley <parley@localhost>")
if env.str("EMAIL_DIR", default=""):
    EMAIL_BACKEND = "django.core.mail.backends.filebased.EmailBackend"
    EMAIL_FILE_PATH = env.str("EMAIL_DIR")
else:
    vars().update(env.email_url_config(read_secret("EMAIL_URL", default="consolemail://")))

STATIC_URL = "/static/"
STATIC_ROOT = Path(env.str("STATIC_ROOT", default=str(BASE_DIR / "staticfiles")))
STATICFILES_DIRS = [BASE_DIR / "static"]
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {"BACKEND": "servestatic.storage.CompressedManifestStaticFilesStorage"},
}

# The provider: any server that speaks OpenAI's chat completions.
OPENAI_BASE_URL = env.str("OPENAI_BASE_URL", default="https://api.openai.com/v1")
OPENAI_API_KEY = read_secret("OPENAI_API_KEY", default="")
OPENAI_MODEL = env.str("OPENAI_MODEL", default="gpt-4.1-mini")
# A label for the page and for /health; nothing else depends on it.
PROVIDER_IS_DEMO = env.bool("PROVIDER_IS_DEMO", default=False)
# Time limits of one request, then of all that is tried before the first token, then of a reply.
PROVIDER_CONNECT_SECONDS = env.float("PROVIDER_CONNECT_SECONDS", default=5.0)
PROVIDER_FIRST_TOKEN_SECONDS = env.float("PROVIDER_FIRST_TOKEN_SECONDS", default=60.0)
PROVIDER_BETWEEN_TOKENS_SECONDS = env.float("PROVIDER_BETWEEN_TOKENS_SECONDS", default=30.0)
PROVIDER_PATIENCE_SECONDS = env.float("PROVIDER_PATIENCE_SECONDS", default=120.0)
PROVIDER_REPLY_SECONDS = env.float("PROVIDER_REPLY_SECONDS", default=1800.0)
PROVIDER_ATTEMPTS = env.int("PROVIDER_ATTEMPTS", default=3)
PROVIDER_RETRY_AFTER_SECONDS = env.float("PROVIDER_RETRY_AFTER_SECONDS", default=10.0)
# The breaker: so many faults in a row, within a minute, give a model a pause of so many seconds.
PROVIDER_BREAKER_FAULTS = env.int("PROVIDER_BREAKER_FAULTS", default=10)
PROVIDER_BREAKER_SECONDS = env.float("PROVIDER_BREAKER_SECONDS", default=15.0)

# How often people may ask. `conversations.turn.limits` reads and checks it.
RATE_LIMITS = env.str(
    "RATE_LIMITS", default="user=20/minute; user=300/hour; token=60/minute; site=600/minute"
)
# What holds while Redis, which counts, is away: open or closed.
RATE_LIMITS_WITHOUT_REDIS = env.str("RATE_LIMITS_WITHOUT_REDIS", default="open")
if RATE_LIMITS_WITHOUT_REDIS not in {"open", "closed"}:
    raise ImproperlyConfigured("RATE_LIMITS_WITHOUT_REDIS is open or closed.")

# Whether a second compliance officer must approve before anybody reads what others said.
BREAK_GLASS_NEEDS_APPROVAL = env.bool("BREAK_GLASS_NEEDS_APPROVAL", default=False)

# How long Redis keeps what was said last in a conversation, so that its next turn needs no query.
SESSION_STORE_SECONDS = env.int("SESSION_STORE_SECONDS", default=3600)
if SESSION_STORE_SECONDS <= 0:
    raise ImproperlyConfigured("SESSION_STORE_SECONDS is 1 or more.")

# Personal data on its way to the provider; `conversations.turn.privacy` reads and checks these.
PII_MODE = env.str("PII_MODE", default="pseudonymise")
PII_MODE_BY_ROLE = env.dict("PII_MODE_BY_ROLE", default={})
PII_NAMES_MODEL = env.str("PII_NAMES_MODEL", default="")

# How long messages are kept until an administrator says otherwise (conversations/retention).
RETENTION_DAYS = env.int("RETENTION_DAYS", default=30)
# A shorter period takes effect so much later.
RETENTION_DELAY_HOURS = env.int("RETENTION_DELAY_HOURS", default=24)
# A purge of more than this share of all messages, and of more than so many, stops and asks.
RETENTION_MAX_SHARE = env.float("RETENTION_MAX_SHARE", default=0.5)
RETENTION_MAX_MESSAGES_UNASKED = env.int("RETENTION_MAX_MESSAGES_UNASKED", default=10_000)
# Legal holds: for how many days a lifted one goes on, and whether those concerned are told.
HOLD_DELAY_DAYS = env.int("HOLD_DELAY_DAYS", default=30)
if HOLD_DELAY_DAYS < 0:
    raise ImproperlyConfigured("HOLD_DELAY_DAYS is a number of days, 0 or more.")
HOLDS_ARE_TOLD = env.bool("HOLDS_ARE_TOLD", default=False)

METRICS_TOKEN = read_secret("METRICS_TOKEN", default="")

LANGUAGE_CODE = "en"
TIME_ZONE = "UTC"
FORMAT_MODULE_PATH = ["chatbot.formats"]
USE_I18N = True
USE_TZ = True
