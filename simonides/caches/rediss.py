"""The same as `redis:`, over TLS. `rediss://[user:password@]host[:6379][/0]`

The server's certificate and its name are verified, always. `?ca=/path/ca.pem` names the authorities to trust instead of
the system's; `?cert=/path/client.pem&key=/path/client.key` is what the server asks for, if it asks.
"""

from .redis import RedisCache

open = RedisCache
