"""The training data of a trial: any mix of data sets, tokenised once, in an order of its own."""

from trainables.data.order import permuted as permuted
from trainables.data.rows import Triple as Triple
from trainables.data.training import Batch as Batch
from trainables.data.training import HeldOut as HeldOut
from trainables.data.training import Passages as Passages
from trainables.data.training import TrainingData as TrainingData
from trainables.data.training import check_data as check_data
from trainables.data.training import open_data as open_data
