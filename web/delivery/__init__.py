"""The agent, handed out by the server itself: `install.sh` and the wheels that it installs, so that a device needs no internet."""
