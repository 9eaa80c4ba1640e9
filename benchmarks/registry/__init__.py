"""How the registry's commands and a server's start fare with many features."""
