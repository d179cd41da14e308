//! Memory of recurrent states: slots, each of which holds all states of one sequence. Which
//! sequence a slot belongs to is the business of [`crate::kv`].

use super::pages::Number;
use super::pool::Shared;
use crate::backend::pages::StateSlot;
use crate::backend::program::StateId;
use crate::tensor::memory::OutOfMemory;

/// The states of all sequences, `[slot][state]`; a slot is made when it is first named, of zeros.
pub(super) struct States {
    /// Elements of each state.
    lens: Vec<usize>,
    slots: Vec<Vec<Shared<f32>>>,
}

impl States {
    /// No slots yet, for states of these lengths.
    pub fn new(lens: &[usize]) -> States {
        States { lens: lens.to_vec(), slots: Vec::new() }
    }

    /// The memory of one state.
    pub fn get(&self, slot: StateSlot, id: StateId) -> &Shared<f32> {
        &self.slots[slot.0 as usize][id.0]
    }

    /// Makes the slots up to `slot`. Memory is zeroed lazily by the system, not touched here.
    fn make(&mut self, slot: StateSlot) -> Result<(), OutOfMemory> {
        while self.slots.len() <= slot.0 as usize {
            let states = self.lens.iter().map(|&len| Shared::new("recurrent states", 1, len));
            self.slots.push(states.collect::<Result<_, _>>()?);
        }
        Ok(())
    }

    /// Copies all states of a slot to another one.
    ///
    /// # Errors
    /// The system has no memory for the other slot.
    pub fn copy(&mut self, from: StateSlot, to: StateSlot) -> Result<(), OutOfMemory> {
        self.make(from.max(to))?;
        let slots = [from.0 as usize, to.0 as usize];
        let Ok([from, to]) = self.slots.get_disjoint_mut(slots) else {
            panic!("states are copied to another slot");
        };
        for (from, to) in from.iter_mut().zip(to) {
            to.get_mut().copy_from_slice(from.get_mut());
        }
        Ok(())
    }

    /// Sets all states of a slot to zeros.
    ///
    /// # Errors
    /// The system has no memory for the slot.
    pub fn clear(&mut self, slot: StateSlot) -> Result<(), OutOfMemory> {
        let Some(states) = self.slots.get_mut(slot.0 as usize) else { return self.make(slot) };
        states.iter_mut().for_each(|state| state.get_mut().fill(0.0));
        Ok(())
    }

    /// Appends all states of a slot, in little-endian order.
    pub fn store(&mut self, slot: StateSlot, out: &mut Vec<u8>) {
        for state in &mut self.slots[slot.0 as usize] {
            f32::append(state.get_mut(), out);
        }
    }

    /// Makes a slot hold what was appended.
    ///
    /// # Errors
    /// The system has no memory for the slot.
    ///
    /// # Panics
    /// If these are not the bytes of a slot.
    pub fn restore(&mut self, slot: StateSlot, mut bytes: &[u8]) -> Result<(), OutOfMemory> {
        self.make(slot)?;
        for state in &mut self.slots[slot.0 as usize] {
            f32::take(&mut bytes, state.get_mut());
        }
        assert!(bytes.is_empty(), "the bytes of a slot");
        Ok(())
    }
}
