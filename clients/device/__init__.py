"""What the board is: its readings, the rules of its owner, and the service that runs the agent."""
