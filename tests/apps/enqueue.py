# pyright: basic, reportFunctionMemberAccess=false
# (Celery comes without types)
"""Signs users out by tasks, and prints what each gave; argv: user ids."""

import sys

from celery_app import sign_out_everywhere

results = [sign_out_everywhere.delay(user_id) for user_id in sys.argv[1:]]
for result in results:
    print(result.get(timeout=10))
