"""The same training in several processes: who has which rows, how gradients meet, who starts the processes."""
