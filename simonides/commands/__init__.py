"""The commands of `simonides`. A command is a function; `asked.command` says its section and shows its examples."""
