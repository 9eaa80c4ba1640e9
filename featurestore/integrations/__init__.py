"""Other tools' programs, told what the feature store knows: a module each, imported only by who uses the tool."""
