"""The one exception that is meant for the user's eyes."""


class UserError(Exception):
    """A mistake that the user can correct.

    The message is one clear line that names the file, the reason and the way out. The commands
    print it without a traceback and exit with status 2.

    >>> try:
    ...     xdc_fast.load("nowhere")
    ... except xdc_fast.UserError as error:
    ...     print(str(error).split(";")[0])
    nowhere: no such file or folder
    """
