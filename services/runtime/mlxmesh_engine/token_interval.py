"""When the tokens of fast steps go out. Pure."""

from mlxmesh_engine.request import News


class TokenInterval:
    """Lets tokens of steps faster than interval_s wait for the next ones, at most about so long.

    A message costs every process on its way more than a token does. Whatever a reader waits for,
    the first token and the end among it, goes out at once.
    """

    def __init__(self, interval_s: float) -> None:
        self._interval_s = interval_s
        self._told_s = 0.0
        self._held: News = {}

    def release(self, news: News, now_s: float) -> News:
        """What to tell now, of earlier turns too; nothing while all of it may wait."""
        if not self._held:
            self._held = news
        else:
            for stream_id, updates in news.items():
                self._held.setdefault(stream_id, []).extend(updates)
        soon = now_s - self._told_s < self._interval_s
        if soon and all(update.may_wait for updates in news.values() for update in updates):
            return {}
        self._told_s = now_s
        held, self._held = self._held, {}
        return held
