# pyright: basic
# (nbformat is only partly typed)
"""Runs a notebook in its own kernel, and prints what its cells print."""

import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # those of the tools that run it, not of the kernel
    import nbformat
    from nbclient import NotebookClient

CELLS = [
    """
from clerk_async import SessionsApi
sessions = SessionsApi()
print(len(sessions.list(user_id="user_1")))
""",
    """
from clerk_async import AsyncSessionsApi
async with AsyncSessionsApi() as asynchronous:
    print(len(await asynchronous.list(user_id="user_1")))
""",
    """
report = sessions.revoke_all(user_id="user_1")
print(report.revoked)
""",
]


def main() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in CELLS])
        NotebookClient(notebook, timeout=20, kernel_name="python3").execute()
    for cell in notebook.cells:
        for output in cell.outputs:
            print(output["text"], end="")


if __name__ == "__main__":
    main()
