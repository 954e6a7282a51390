"""A page to explore a zoo: ``python -m scripts.explore [zoo=imagenette64]``, then open its address.

It is for browsers on this machine only (``host=``), and asks nothing of any other.
"""

if not __package__:
    import as_module  # noqa: F401  says how to start it, and exits

import threading

from omegaconf import DictConfig

from eval.explorer.desk import Desk
from eval.explorer.studio import Studio
from models.errors import InputError
from scripts.cli import command, compose, overrides


@command("explore")
def main(config: DictConfig) -> None:
    try:
        from eval.explorer import page, server
    except ModuleNotFoundError as error:
        raise InputError(
            f"the page needs {error.name}, which is optional: python -m pip install -r "
            "requirements-explore.txt"
        ) from error
    desk = Desk(Studio(config, compose, overrides()), list(config.records))
    app = page.mounted(desk, config.host, config.port)
    threading.Thread(target=desk.warm_up, daemon=True).start()
    server.serve(app, config.host, config.port)


if __name__ == "__main__":
    main()
