"""``python -m speechbrain_bilevel.cli``, the same as the command."""

from speechbrain_bilevel.cli import main

if __name__ == "__main__":
    main()
